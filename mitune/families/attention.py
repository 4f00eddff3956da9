"""A look at the attention of a network, and at which tokens a word is.

Every network of diffusers ends in ``torch.nn.functional.scaled_dot_product_attention``. For the time of one forward
that function is caught, so no processor is replaced, adapters are included, and without a tap nothing is installed.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mitune.denoiser import Span, Tap
from mitune.errors import UserError
from mitune.maps import Sums

_WORD = re.compile(r"\w+(?:['’-]\w+)*")


@contextlib.contextmanager
def tapped(network: nn.Module, tap: Tap | Sums, kind: Callable[[bool, int], str]) -> Iterator[None]:
    """Show the attention maps of the block's forwards to ``tap``; gradients flow through them.

    ``kind(told, queries)`` names a call: whether its layer reads a text, and its number of queries.

    Raises UserError where the maps cannot be seen: a network that is compiled, if only in parts, gradient checkpointing
    (which computes the maps a second time, unseen), another backend of attention, if only in some layers that read a
    text, a network without attention. (Layers without a softmax, as linear attention is, have no maps to be seen.)
    """
    modules = dict(network.named_modules())
    if any(
        one._compiled_call_impl is not None or name.endswith("_orig_mod") for name, one in modules.items()
    ):
        raise UserError("a compiled network shows no attention maps; say model.compile=false")
    if getattr(network, "is_gradient_checkpointing", False):
        raise UserError(
            "attention maps are not seen under gradient checkpointing; say train.gradient_checkpointing=false"
        )
    capture = _Capture(tap, kind)
    # The layers that an adapter may have wrapped keep their names: it changes the projections inside them.
    layers = [(name, layer) for name, layer in modules.items() if hasattr(layer, "to_q")]
    hooks = [
        layer.register_forward_pre_hook(capture.entering(name, layer), with_kwargs=True)
        for name, layer in layers
    ]
    try:
        with capture:
            yield
    finally:
        for hook in hooks:
            hook.remove()
    capture.check()


class _Capture(TorchFunctionMode):
    """Computes attention by its maps, and hands them to the tap."""

    def __init__(self, tap: Tap | Sums, kind: Callable[[bool, int], str]) -> None:
        super().__init__()
        self._tap, self._kind = tap, kind
        self._place, self._told = "", False
        self._calls = 0
        self._reading = False  # a layer that reads a text was entered, and no call has come from it yet
        self._unseen = ""

    def entering(self, name: str, layer: Any) -> Callable[..., None]:
        """Make the hook that notes which layer comes, and whether it reads a text beside the picture."""
        joint = getattr(layer, "add_k_proj", None) is not None

        def note(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            self._leave()
            text = named.get("encoder_hidden_states", given[1] if len(given) > 1 else None)
            self._place, self._told = name, text is not None and not joint
            self._reading = text is not None

        return note

    def _leave(self) -> None:
        if self._reading:
            self._unseen = self._unseen or self._place
        self._reading = False

    def check(self) -> None:
        """Raise UserError where attention was computed in a way that shows no maps."""
        self._leave()
        if self._unseen or not self._calls:
            where = f" in {self._unseen}" if self._unseen else ""
            raise UserError(
                f"the network computed no attention by torch's own function{where}, so there are no maps of it; use the"
                " native backend, neither sliced nor by xformers"
            )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        self._calls += 1
        self._reading = False
        call = _Call(*args, **kwargs)
        kind = self._kind(self._told, call.query.shape[-2])
        if isinstance(self._tap, Sums):
            size = call.query.shape[-2], call.key.shape[-2]
            self._tap.take(self._place, kind, size, functools.partial(call.means, self._tap.batch))
            return func(*args, **kwargs)
        maps = call.maps(slice(None))
        changed = self._tap.layer(self._place, kind, maps)
        return call.output(maps if changed is None else changed)


# Numbers of a map that are held at once where only the mean over the heads is wanted: 16 MiB, 128 on an accelerator,
# where many small steps cost more than the room does.
_ROOM, _ROOM_THERE = 2**22, 2**25


class _Call:
    """A call of attention, softmax(q kᵀ · scale + mask) v, with the parameters of the function that is caught."""

    def __init__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> None:
        if enable_gqa:
            groups = query.shape[-3] // key.shape[-3]
            key, value = (part.repeat_interleave(groups, -3) for part in (key, value))
        self.query, self.key, self._value, self._dropout = query, key, value, dropout_p
        self._scale = query.shape[-1] ** -0.5 if scale is None else scale
        if is_causal:
            size = query.shape[-2], key.shape[-2]
            attn_mask = torch.ones(size, dtype=torch.bool, device=query.device).tril()
        self._mask = attn_mask

    def maps(self, rows: slice, batch: slice = slice(None)) -> Tensor:
        """The maps [n, heads, rows, keys] of some of the queries of some of the batch, float32."""
        query, key = self.query[batch][..., rows, :] * self._scale, self.key[batch]
        logits = (query @ key.transpose(-2, -1)).float()
        mask = self._mask
        if mask is not None and mask.ndim == 4 and len(mask) > 1:
            mask = mask[batch]
        if mask is not None and mask.shape[-2] > 1:
            mask = mask[..., rows, :]
        if mask is not None and mask.dtype == torch.bool:
            logits = logits.masked_fill(~mask, float("-inf"))
        elif mask is not None:
            logits = logits + mask
        return logits.softmax(-1)

    def means(self, batch: slice, rows: slice) -> Iterator[Tensor]:
        """The mean of the maps over the heads [n, rows, keys], a part of the rows at a time."""
        every, heads, queries, _ = self.query.shape
        n = len(range(*batch.indices(every)))
        start, stop, _ = rows.indices(queries)
        room = _ROOM if self.query.device.type == "cpu" else _ROOM_THERE
        step = max(1, room // (n * heads * self.key.shape[-2]))
        for at in range(start, stop, step):
            yield self.maps(slice(at, min(at + step, stop)), batch).mean(1)

    def output(self, maps: Tensor) -> Tensor:
        """What the call gives with these maps."""
        return F.dropout(maps.to(self._value.dtype), self._dropout) @ self._value


# -- words and tokens --------------------------------------------------------------------------------------------------


class Reader(NamedTuple):
    """A reader is a text encoder that reads words.

    ``limit``: tokens it keeps, special ones included; ``first``: the column of the condition's text that its first
    token has; ``before``: what is put before every prompt; ``lower``: whether capitals are lost.
    """

    name: str
    tokenizer: Any
    limit: int
    first: int = 0
    before: str = ""
    lower: bool = False


def spans(text: str, readers: Sequence[Reader]) -> list[Span]:
    """Find the words of a text, and which columns of the condition's text each has in every encoder."""
    words = list(_WORD.finditer(text))
    found: list[dict[str, tuple[int, ...]]] = [{} for _ in words]
    for reader in readers:
        shift = len(reader.before)
        offsets = _offsets(reader, reader.before + (text.lower() if reader.lower else text))
        for word, columns in zip(words, found, strict=True):
            start, stop = word.start() + shift, word.end() + shift
            columns[reader.name] = tuple(
                reader.first + place
                for place, (low, high) in enumerate(offsets[: reader.limit])
                if low < min(high, stop) and high > start
            )
    return [Span(w[0], w.start(), w.end(), columns) for w, columns in zip(words, found, strict=True)]


def _offsets(reader: Reader, text: str) -> list[tuple[int, int]]:
    """Tell from which to which character each token goes; (0, 0) for special ones."""
    tokenizer = reader.tokenizer
    if getattr(tokenizer, "is_fast", False):
        rows = tokenizer(text, return_offsets_mapping=True, truncation=False, verbose=False)
        special = tokenizer.get_special_tokens_mask(rows["input_ids"], already_has_special_tokens=True)
        pairs = zip(special, rows["offset_mapping"], strict=True)
        return [(0, 0) if mark else (int(pair[0]), int(pair[1])) for mark, pair in pairs]
    # A slow tokenizer tells no offsets: a token ends where the text that it belongs to begins to have it.
    ids = tokenizer(text, truncation=False, verbose=False).input_ids
    plain = tokenizer(text, truncation=False, verbose=False, add_special_tokens=False).input_ids
    lead = next((i for i in range(len(ids)) if ids[i : i + len(plain)] == plain), 0)
    found, start, known = [(0, 0)] * lead, 0, 0
    for word in _WORD.finditer(text):
        upto = tokenizer(text[: word.end()], verbose=False, add_special_tokens=False).input_ids
        found += [(start, word.end())] * (len(upto) - known)
        start, known = word.end(), len(upto)
    return found
