"""Spellings become objects here and nowhere else: methods such as `crd+0.9*kd`, data sets, students, teachers, parts.

A built-in `NAME`, `SOURCE:NAME`, a name that an installed package registers, `package.module:attribute`,
`path/to/file.py:attribute` and, in Python, the object itself stand for the same.
"""

from relgraph.names.data import dataset as dataset
from relgraph.names.data import own_data as own_data
from relgraph.names.data import unseen_classes as unseen_classes
from relgraph.names.index import index_transform as index_transform
from relgraph.names.methods import SHARED as SHARED
from relgraph.names.methods import Methods as Methods
from relgraph.names.methods import Named as Named
from relgraph.names.methods import build as build
from relgraph.names.methods import build_method as build_method
from relgraph.names.methods import may_read_all as may_read_all
from relgraph.names.methods import parse_methods as parse_methods
from relgraph.names.methods import read_arguments as read_arguments
from relgraph.names.methods import reads_graph as reads_graph
from relgraph.names.methods import shared_options as shared_options
from relgraph.names.networks import CLIP_NAMES as CLIP_NAMES
from relgraph.names.networks import SOURCES as SOURCES
from relgraph.names.networks import build_backbone as build_backbone
from relgraph.names.networks import clip_spec as clip_spec
from relgraph.names.networks import is_vectors as is_vectors
from relgraph.names.networks import load_student as load_student
from relgraph.names.networks import load_teacher as load_teacher
from relgraph.names.networks import open_student as open_student
from relgraph.names.networks import student as student
from relgraph.names.networks import student_in_file as student_in_file
from relgraph.names.networks import teacher as teacher
from relgraph.names.own import OWN as OWN
from relgraph.names.own import check_options_of as check_options_of
from relgraph.names.own import check_permitted as check_permitted
from relgraph.names.own import logger as logger
from relgraph.names.own import origins as origins
from relgraph.names.own import own_code_of as own_code_of
from relgraph.names.own import own_spellings as own_spellings
from relgraph.names.own import replace_own as replace_own
from relgraph.names.own import settled as settled
from relgraph.names.own import split_sum as split_sum
from relgraph.names.own import texts_of as texts_of
from relgraph.names.parts import PARTS as PARTS
from relgraph.names.parts import criterion as criterion
from relgraph.names.parts import kernel as kernel
from relgraph.names.parts import scale as scale
from relgraph.names.refinements import refinement_in_file as refinement_in_file
from relgraph.names.refinements import refiner as refiner
