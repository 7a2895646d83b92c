"""An export format: the weights as one .npz file, with the metadata of the ONNX file."""

import json

import numpy as np


def export(model, example, folder, metadata):
    """Write weights.npz into the folder and return its path."""
    path = folder / "weights.npz"
    arrays = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    np.savez(path, **arrays, metadata=np.array(json.dumps(dict(metadata))))
    return path
