"""A look at the attention of a network, and at which tokens a word is.

Every network of diffusers ends in ``torch.nn.functional.scaled_dot_product_attention``. For the time of one forward
that function is caught, so no processor is replaced, adapters are included, and without a tap nothing is installed.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mitune.denoiser import Span, Tap
from mitune.errors import UserError

_WORD = re.compile(r"\w+(?:['’-]\w+)*")


@contextlib.contextmanager
def tapped(network: nn.Module, tap: Tap, kind: Callable[[bool, int], str]) -> Iterator[None]:
    """Show the attention maps of the block's forwards to ``tap``; gradients flow through them.

    ``kind(told, queries)`` names a call: whether its layer reads a text, and its number of queries.

    Raises UserError where the maps cannot be seen: a compiled network, gradient checkpointing (which computes the maps
    a second time, unseen), another attention backend, a network without attention.
    """
    if getattr(network, "_compiled_call_impl", None) is not None:
        raise UserError("a compiled network shows no attention maps; say model.compile=false")
    if getattr(network, "is_gradient_checkpointing", False):
        raise UserError(
            "attention maps are not seen under gradient checkpointing; say train.gradient_checkpointing=false"
        )
    capture = _Capture(tap, kind)
    # The layers that an adapter may have wrapped keep their names: it changes the projections inside them.
    layers = [(name, layer) for name, layer in network.named_modules() if hasattr(layer, "to_q")]
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
    if not capture.calls:
        raise UserError(
            "the network computed no attention by torch's own function, so there are no maps; use the native backend"
        )


class _Capture(TorchFunctionMode):
    """Computes attention by its maps, and hands them to the tap."""

    def __init__(self, tap: Tap, kind: Callable[[bool, int], str]) -> None:
        super().__init__()
        self._tap, self._kind = tap, kind
        self._place, self._told = "", False
        self.calls = 0

    def entering(self, name: str, layer: Any) -> Callable[..., None]:
        """Make the hook that notes which layer comes, and whether it reads a text beside the picture."""
        joint = getattr(layer, "add_k_proj", None) is not None

        def note(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            text = named.get("encoder_hidden_states", given[1] if len(given) > 1 else None)
            self._place, self._told = name, text is not None and not joint

        return note

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return self._attend(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """softmax(q kᵀ · scale + mask) v, as the function that is caught computes it."""
        self.calls += 1
        if enable_gqa:
            groups = query.shape[-3] // key.shape[-3]
            key, value = (part.repeat_interleave(groups, -3) for part in (key, value))
        logits = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
        logits = logits.float()
        if is_causal:
            attn_mask = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            logits = logits.masked_fill(~attn_mask, float("-inf"))
        elif attn_mask is not None:
            logits = logits + attn_mask
        maps = logits.softmax(-1)
        changed = self._tap.layer(self._place, self._kind(self._told, query.shape[-2]), maps)
        return F.dropout((maps if changed is None else changed).to(value.dtype), dropout_p) @ value


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
