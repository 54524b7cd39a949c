"""What a model's directory must and must not hold, by its files' names; each fault with what to do."""

from __future__ import annotations

from collections.abc import Iterable

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
FOREIGN = {
    ".h5": "TensorFlow",
    ".msgpack": "Flax",
    ".onnx": "ONNX",
    ".gguf": "llama.cpp",
    ".tflite": "TensorFlow Lite",
}
ADAPTER = "adapter_config.json"


def weights_fault(names: Iterable[str]) -> tuple[str, str] | None:
    """(file, fault) where these files are no whole model in safetensors; None where they may be one.

    >>> weights_fault(["config.json", "tf_model.h5"])
    ('tf_model.h5', 'holds TensorFlow weights only; ...')
    """
    known = sorted(names)
    if ADAPTER in known:
        what = (
            "is an adapter's, which changes a model and is none: merge it (peft: merge_and_unload), save the "
            "whole model and give that"
        )
        return ADAPTER, what
    if any(name.endswith(".safetensors") for name in known):
        return None
    pickles = [name for name in known if name.endswith(PICKLES)]
    if pickles:
        what = (
            "is a pickle, and pickled weights are never loaded: unpickling runs the code of whoever wrote "
            "them. Where you trust the file, load it with transformers and save_pretrained elsewhere, which "
            "writes safetensors"
        )
        return pickles[0], what
    for name in known:
        for ending, framework in FOREIGN.items():
            if name.endswith(ending):
                return name, (
                    f"holds {framework} weights, and there are no others: convert them to safetensors with "
                    "transformers"
                )
    return "", "holds no .safetensors file"
