"""Writes a safetensors file whose bytes depend on its content alone: the library orders the metadata by chance."""

import json

from safetensors.torch import save


def save_stable(tensors, path, metadata):
    data = save({k: x.contiguous() for k, x in tensors.items()}, metadata=metadata)
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
