"""Tensors that lie on several ranks, written whole into safetensors files, one tensor in memory at a time.

The bytes are those that safetensors' own save_file writes for the same tensors, so that a file does not tell
how many ranks there were. Format: huggingface.co/docs/safetensors.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from services.trainer.ranks import Ranks
from services.trainer.sharding import whole

ALIGNMENT = 8
TYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def write_whole(file: Path, tensors: Mapping[str, Tensor], mine: Collection[str], ranks: Ranks) -> None:
    """Writes the tensors named in `mine` into `file`; nothing where there are none.

    All ranks have to call this with the same `tensors`, as a whole tensor comes from all of them. Raises on
    every rank where one could not write.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    own = [name for name in order if name in mine]
    writer = _Writer(file, {name: tensors[name] for name in own})
    for name in order:
        tensor = whole(tensors[name])  # even where the disk is full: the others wait for it
        if name in mine:
            writer.append(tensor)
    ranks.agreed(writer.close)


class _Writer:
    """A file in the making; the first fault stays until `close`."""

    def __init__(self, file: Path, tensors: Mapping[str, Tensor]) -> None:
        self._fault: OSError | None = None
        self._stream: IO[bytes] | None = None
        if not tensors:
            return
        try:
            self._stream = file.open("wb")
            self._stream.write(_header(tensors))
        except OSError as error:
            self._fault = error

    def append(self, tensor: Tensor) -> None:
        if self._fault is None and self._stream is not None:
            try:
                self._stream.write(
                    tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
                )
            except OSError as error:
                self._fault = error

    def close(self) -> None:
        """Raises the first fault."""
        try:
            if self._stream is not None:
                self._stream.close()
        finally:
            if self._fault is not None:
                raise self._fault


def _header(tensors: Mapping[str, Tensor]) -> bytes:
    entries, end = {}, 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.numel() * tensor.element_size()
        place = {"shape": list(tensor.shape), "data_offsets": [start, end]}
        entries[name] = {"dtype": TYPE_NAMES[tensor.dtype], **place}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


@contextmanager
def whole_weights(model: nn.Module, beside: Path, ranks: Ranks) -> Iterator[dict[str, Any] | None]:
    """A spread model's state dict with whole tensors, on the leading rank; None on others, and for one rank.

    The tensors lie in a file beside `beside` that is gone afterwards, and are read from it page by page: no
    rank holds the whole model. Raises on every rank where the leading one could not write or read it.
    """
    if ranks.size == 1:
        yield None
        return
    tensors = model.state_dict(keep_vars=True)
    first_names: dict[int, str] = {}  # tied weights are one tensor of several names
    for name, tensor in tensors.items():
        first_names.setdefault(id(tensor), name)
    distinct = {name: tensors[name].detach() for name in first_names.values()}
    directory = beside.with_name(f"{beside.name}.tmp-{secrets.token_hex(4)}")
    try:
        ranks.led(lambda: directory.mkdir(parents=True))  # a full disk fails it: all ranks have to know
        file = directory / "whole.safetensors"
        write_whole(file, distinct, distinct if ranks.leads else (), ranks)
        found = ranks.agreed(lambda: load_file(file) if ranks.leads else {})
        yield {name: found[first_names[id(t)]] for name, t in tensors.items()} if ranks.leads else None
    finally:
        shutil.rmtree(directory, ignore_errors=True)
