"""Captured work on a CPU: what `torch.cuda` is asked for by `engine.capture`, without CUDA.

A graph notes the operators that run while it is captured and leaves no trace of them; a replay runs them
again, on the same tensors and with the same numbers. So what a graph does wrong (a number that ought to lie
in a tensor, a tensor that is another one next time, a question to the device) goes wrong here too. Kernels,
streams and the memory of a GPU are not looked at.
"""

import contextlib
import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ASKING = (
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.equal.default,
)


def tensors_in(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def place_of(tensor):
    return tensor.untyped_storage()._cdata


def written_by(func, args, kwargs):
    """The tensors that an operator changes."""
    for number, argument in enumerate(func._schema.arguments):
        value = args[number] if number < len(args) else kwargs.get(argument.name)
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield from tensors_in(value)


class Capture(TorchDispatchMode):
    """Notes operators; at the end all memory that was there before is as it was."""

    def __init__(self, calls):
        super().__init__()
        self.calls, self.made, self.before = calls, {}, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        assert func not in ASKING, f"{func} asks the device within a captured step"
        changed = list(written_by(func, args, kwargs))
        for tensor in changed:
            if place_of(tensor) not in self.made:
                storage = tensor.untyped_storage()
                self.before.setdefault(place_of(tensor), (storage, storage.clone()))
        results = func(*args, **kwargs)
        known = {place_of(tensor) for tensor in tensors_in((args, kwargs))}
        new = [tensor if place_of(tensor) not in known else None for tensor in tensors_in(results)]
        if changed or any(tensor is not None for tensor in new):
            self.calls.append((func, args, kwargs, new))
        self.made.update({place_of(tensor): tensor for tensor in new if tensor is not None})
        return results

    def end(self):
        for storage, content in self.before.values():
            storage.copy_(content)
        with torch.no_grad():
            for tensor in self.made.values():
                if tensor.is_floating_point():
                    tensor.fill_(torch.nan)  # nothing has been computed


class Graph:
    """In place of `torch.cuda.CUDAGraph`."""

    def __init__(self):
        self.calls = []

    @torch.no_grad()
    def replay(self):
        for func, args, kwargs, places in self.calls:
            results = tensors_in(func(*args, **kwargs))
            for place, result in zip(places, results, strict=True):
                if place is not None:
                    place.copy_(result)


class Stream:
    """In place of `torch.cuda.Stream`."""

    def __init__(self, device=None):
        pass

    def wait_stream(self, other):
        pass


def capture_on_the_cpu(monkeypatch):
    """From here on `engine.capture` works on a CPU."""
    pools = {}

    @contextlib.contextmanager
    def capturing(graph, *, pool, stream, capture_error_mode):
        """As torch's allocator where anything of it still lives, refuse a pool without graphs left."""
        assert capture_error_mode == "thread_local"
        known = pools.setdefault(pool, [])
        assert not known or any(one() is not None for one in known), "use_count > 0 INTERNAL ASSERT FAILED"
        known.append(weakref.ref(graph))
        mode = Capture(graph.calls)
        with mode:
            yield
        mode.end()

    handles = iter(range(1000))
    for name, value in {
        "Stream": Stream,
        "current_stream": Stream,
        "stream": lambda _stream: contextlib.nullcontext(),
        "graph_pool_handle": lambda: next(handles),
        "CUDAGraph": Graph,
        "graph": capturing,
        "synchronize": lambda *_: None,
        "empty_cache": lambda: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
