"""relgraph export."""

from pathlib import Path
from typing import Any

import click

from .options import RUN_OR_STORE, own_code_options, source_option
from .show import say


@click.command()
@RUN_OR_STORE
@click.option("-o", "--output", metavar="FILE|FOLDER/", required=True,
              help="What to write; its ending says what: a student is .onnx, .pt2, .safetensors or a FOLDER/, a graph "
              ".graphml, .gexf, .json, .pt, or .csv or .parquet, two tables, of edges and nodes.")  # fmt: skip
@click.option("--format", type=click.Choice(["onnx", "pt2", "safetensors", "hub", "graphml", "gexf", "json", "csv",
                                             "parquet", "pt"]), help="[default: by the ending]")  # fmt: skip
@click.option("--with-preprocessing", is_flag=True,
              help="Of a student, .onnx and .pt2: read uint8 RGB images of any size; resized, cropped and normalised "
              "inside.")  # fmt: skip
@click.option("--int8", is_flag=True,
              help="Of a student, .onnx: weights and activations in 8 bits.")  # fmt: skip
@click.option("--licence", metavar="ID", help="Of a student, FOLDER/: what the model card says, such as mit.")
@click.option("--split", type=click.Choice(["train", "val", "test", "all"]),
              help="Of a graph of a RUN, like all below; all: one graph of the images of the three. "
              "[default: test]")  # fmt: skip
@click.option("--first", type=int, metavar="N",
              help="Only N images of the split, drawn evenly over its classes, the same ones each time.")  # fmt: skip
@click.option("--side", type=click.Choice(["pair", "teacher", "student"]),
              help="Both graphs and the cross graph between them, or one graph. "
              "[default: pair; of a STORE teacher]")  # fmt: skip
@source_option(None, " [default: teacher; for the pair projection, since a cross graph needs vectors of one width]")
@click.option("--diff", is_flag=True, help="Only the edges on which the two disagree, one node for an image.")
@click.option("--graph", type=click.Choice(["knn", "dense", "threshold"]), default="knn", show_default=True,
              help="Which pairs are edges.")  # fmt: skip
@click.option("--k", type=int, help="Neighbours of each node. [default: 8, or as many as there are]")
@click.option("--threshold", type=float, default=0.5, show_default=True,
              help="Least magnitude of an edge's correlation.")  # fmt: skip
@click.option("--neighbours", type=click.Choice(["teacher", "student", "union", "mutual"]),
              help="Who chooses the edges. [default: the side; the teacher for the pair]")  # fmt: skip
@click.option("--attributes", metavar="NAME,...",
              help="What nodes carry: index, label, class_name, split, prediction, correct, labelled, file, "
              "degenerate, community, overlap, train_mask, val_mask, test_mask. [default: the first 8]")  # fmt: skip
@click.option("--layout", type=click.Choice(["tsne", "spring", "none"]),
              help="Where nodes stand. [default: tsne in GraphML and GEXF of up to 5,000 images]")  # fmt: skip
@click.option("--thumbnails", is_flag=True, help="Write each image into OUTPUT_thumbnails/ as well.")
@own_code_options
def export(run: Path, output: str, diff: bool, attributes: str | None, **options: Any) -> None:
    """Write the student of a RUN for other programs, or its graph for networkx, Gephi or PyTorch Geometric.

    Of a STORE of relgraph embed, or a table of vectors (.npy, .parquet), it is the teacher's graph: no run is needed.

    A student maps images to `embedding`, its vectors in the space that the method compared, and `logits`. How images
    are prepared and the classes are in the metadata (ONNX), in relgraph.json (.pt2) or in config.json. Once written it
    is opened in its own runtime and compared on 64 test images of the run; where outputs differ by more than 1e-4
    (relative), nothing is left. With --int8, calibrated on 256 training images, accuracy, neighbours and speed are told
    instead, before -> after, or the share of pixels whose class stays. ONNX needs pip install 'relgraph[deploy]'.

    A graph is that of a split, and says whose vectors it is of (--source). Nodes carry index, label, class name, split,
    prediction, whether it is correct, and the file within the data set's folder, or what --attributes names:
    `community` is that of the node in its own network's graph of k nearest neighbours (Louvain), `overlap` the share of
    those neighbours on which both networks agree. Edges carry the correlation, its magnitude as `weight`, its sign,
    their kind (teacher, student, match) and, where classes are known, `same_class`. A table has the edges alone: the
    nodes are in nodes.csv beside edges.csv, in graph_nodes.csv beside graph.csv. `graph_source` says in each row of
    both whose vectors the graph is of.

    Gephi opens GraphML and GEXF with a title, a colour by class and a position for each node; an edge within a class
    has its colour, one between classes is black. `label` is the title there, so the number of a class is `class`. With
    --thumbnails `image` is the path of a node's PNG file.

    With --diff each network chooses its edges, and those that both have are left out: `only` is the network that has an
    edge, `student_correlation` and `teacher_correlation` are its weights in both, and `weight` is their difference.

    \b
    Examples:
      relgraph export runs/knn8 -o student.onnx                      the student for onnxruntime, of normalised images
      relgraph export runs/knn8 --with-preprocessing -o student.onnx  of uint8 images of any size
      relgraph export runs/knn8 -o phone.onnx --int8                 a quarter of the size
      relgraph export runs/knn8 -o student.pt2                       a program of torch.export
      relgraph export runs/knn8 -o student.safetensors               by timm's or torchvision's names, with config.json
      relgraph export runs/knn8 -o hub/ --licence mit                a folder for the Hugging Face Hub, with its card
      relgraph export runs/knn8 -o graph.graphml                     the graph pair on the test split, 8 neighbours
      relgraph export runs/knn8 --side teacher --k 4 -o teacher.gexf  the frozen teacher's own graph
      relgraph export embeddings/digits -o teacher.gexf              the same of a store of relgraph embed: no run
      relgraph export runs/knn8 --graph threshold --threshold 0.8 --first 500 -o near.json
      relgraph export runs/knn8 --attributes label,prediction,community,overlap --thumbnails -o graph.gexf
      relgraph export runs/knn8 --diff -o diff.gexf                  the edges of one network alone
      relgraph export runs/knn8 --split all -o edges.csv             edges.csv and nodes.csv
      relgraph export runs/knn8 --split all -o pair.pt               for relgraph.read_pair in Python
    """
    from relgraph import api
    from relgraph.errors import RelgraphError

    names = None if attributes is None else [part.strip() for part in attributes.split(",") if part.strip()]
    if diff and options["side"] is not None:
        raise RelgraphError(f"--diff compares both networks: expected no --side, got {options['side']}")
    if diff:
        options["side"] = "difference"
    found = api.export(run, output, attributes=names, **options)
    if options["int8"]:
        say(f"{output}:", *found.notes)
        return
    files = [found.path] if found.path.is_file() else [*found.path.iterdir()]
    told = [f"{found.images} images", f"{sum(file.stat().st_size for file in files) / 1e6:.1f} MB", *found.notes]
    if found.difference is not None:
        told[0] = f"compared on {told[0]}"
    say(f"{output}: {', '.join(told)}")
