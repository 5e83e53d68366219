"""Pickles as Python 2 wrote CIFAR-10: protocol 2, and bytes as its str, which Python 3 never writes."""

import io
import pickle
import struct


class _Pickler(pickle._Pickler):
    dispatch = pickle._Pickler.dispatch.copy()

    def save_str(self, text):
        raw = text if isinstance(text, bytes) else text.encode()
        self.write(b"T" + struct.pack("<i", len(raw)) + raw)

    dispatch[bytes] = dispatch[str] = save_str


def python2_pickle(values):
    """Return the bytes of such a pickle, NumPy's module under its name of that time."""
    file = io.BytesIO()
    _Pickler(file, protocol=2).dump(values)
    return file.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
