"""The whole network as an ONNX graph of any batch size, for onnxruntime and others."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from selfsup.export.format import Format, NotWritten
from selfsup.export.formats.torch_export import traced
from selfsup.export.outgoing import OUTPUTS, Outgoing
from selfsup.packages import optional
from selfsup.storage.untrusted import plain_name

_MOST = 2**31 - 2**20  # bytes: an ONNX file is one message of less than 2 GiB


def _write(outgoing: Outgoing, path: Path) -> None:
    network = outgoing.network
    size = sum(t.numel() * t.element_size() for t in network.state_dict().values())
    if size > _MOST:
        raise NotWritten(
            f"the network has {size} bytes, and an ONNX file holds {_MOST} at most; give --to torch.export"
        )
    program = traced(outgoing)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what torch's own code will have to change; the result is compared
            found = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                input_names=[outgoing.input],
                output_names=[outgoing.output],
            )
    except RuntimeError as error:
        raise NotWritten(
            f"ONNX has no operators for {outgoing.about['network']}: {plain_name(error, 300)}\ngive --to torch.export"
        ) from error
    assert found is not None
    said = {name: value if isinstance(value, str) else json.dumps(value) for name, value in outgoing.about.items()}
    found.model.metadata_props.update(said)
    found.save(path, external_data=False)


def _read(outgoing: Outgoing, path: Path) -> Callable[[Tensor], Tensor]:
    runtime = optional("onnxruntime", "the format onnx")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def forward(images: Tensor) -> Tensor:
        (result,) = session.run(None, {outgoing.input: images.numpy()})
        return torch.from_numpy(result)

    return forward


def _usage(outgoing: Outgoing, path: Path) -> str:
    return f'{outgoing.output} = onnxruntime.InferenceSession("{path}").run(None, {{"{outgoing.input}": ...}})'


FORMAT = Format(
    name="onnx",
    title="the network as an ONNX graph, for onnxruntime, TensorRT and others",
    endings=(".onnx",),
    write=_write,
    read=_read,
    usage=_usage,
    parts=tuple(OUTPUTS),
    takes_pixels=True,
    packages=("onnx", "onnxscript", "onnxruntime"),
    extra="onnx",
)
