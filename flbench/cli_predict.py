"""The commands that use a fitted locator outside of a run: options in, job done, lines out. No logic of its own."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from flbench import console
from flbench import options as shared
from flbench.errors import DataError, PartialError

_method = click.option(
    "--method", "-m", default="", metavar="NAME[:VARIANT|:TARGET]", help="Method; default: that of the fit."
)
_fit = click.option(
    "--fit", default="", metavar="ID", help="Fit, or a part of its name; default: the method's only one."
)


@click.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="IMAGE|FOLDER...")
@_method
@_fit
@shared.weights
@shared.given
@shared.max_pixels
@shared.study
@click.option("--into", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder of the results.")
@click.option("--size", type=click.IntRange(min=1), help="Side to bring images to, for a method without a fit.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; default: every core.")
@shared.as_json
def predict(
    images: tuple[Path, ...],
    method: str,
    fit: str,
    weights: str,
    given: tuple[str, ...],
    study: Path,
    into: Path,
    size: int | None,
    device: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Say of images of one's own where they were manipulated: a map, an overlay and a score for each.

    Images may have any size: they are brought to the square that the fit was made on (antialiased bilinear, the aspect
    ratio is not kept), and the map is brought back to the size of the image. Results are NAME-map.png (8-bit gray, 255
    is fake), NAME-overlay.png and summary.csv with score and marked area, the share of pixels at 0.5 or above.
    """
    from flbench.engine.local import usable_cores
    from flbench.prediction import open_locator, predict_images, summary_table
    from flbench.study import Study

    threads = threads or usable_cores()
    ready = open_locator(
        method,
        fit=fit,
        weights=weights,
        given=shared.values_of(given),
        study=Study(study),
        size=size,
        device=device,
        threads=threads,
    )
    console.notes(ready.notes)
    with console.progress() as progress:
        seen = predict_images(images, into, ready, progress=progress)
    if as_json:
        console.json_out([asdict(one) for one in seen])
    else:
        console.show([summary_table(seen, ready)])
    failed = [one for one in seen if one.reason]
    if len(failed) == len(seen):
        raise DataError(f"no image could be predicted: {failed[0].image}: {failed[0].reason}")
    if failed:
        raise PartialError(f"{len(failed)} of {len(seen)} images could not be predicted")


@click.command()
@_method
@_fit
@shared.study
@click.option("--into", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The ONNX file.")
@shared.as_json
def export(method: str, fit: str, study: Path, into: Path, as_json: bool) -> None:
    """Write a fitted network as an ONNX file, for onnxruntime and its like, and hold it against the locator.

    It takes images of the size that the fit was made on, in batches of any size; `flbench run --method onnx:FILE` tests
    it as any other method. Needs the extra `onnx`.
    """
    from flbench.engine.export import export_onnx
    from flbench.prediction import open_locator
    from flbench.study import Study

    ready = open_locator(method, fit=fit, study=Study(study), device="cpu")
    difference = export_onnx(ready.locator, ready.method.name, ready.size or 0, into)
    if as_json:
        console.json_out({"file": str(into), "fit": ready.fit, "difference": difference})
    else:
        console.files(f"written, within {difference:.1g} of the locator", [into])
