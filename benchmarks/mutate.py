"""Small random damage to valid input, for `benchmarks.fuzz`. All draws come from the generator that is passed."""

import contextlib
import copy
import json
import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

NUMBERS = (0, 1, -1, 2**31 - 1, -(2**31), 2**63 - 1, 0.5, -1e9, 1e12, 1e300, float("nan"), float("inf"))
JSON_VALUES = (None, True, "", "x", "x" * 10_000, [], {}, [[]], {"": None}, *NUMBERS)
WORDS = (bytes(8), b"\xff" * 8, *(struct.pack("<d", x) for x in NUMBERS[-5:]), struct.pack("<q", 2**63 - 1))
FACTORS = (0.0, -1.0, 0.5, 3.6, 57.3, 1e6)  # other units and frames
MOST_EDITS = 6


def change_bytes(rng: np.random.Generator, valid: bytes) -> bytes:
    """A few edits: bits, bytes, extreme words, slices cut out, doubled or put in, the end cut off."""
    data = bytearray(valid)
    for _ in range(rng.integers(1, MOST_EDITS + 1)):
        at = int(rng.integers(len(data) + 1))
        length = int(rng.integers(1, 17))
        match rng.integers(7):
            case 0 if data:
                data[at % len(data)] ^= 1 << int(rng.integers(8))
            case 1:
                data[at : at + 1] = rng.bytes(1)
            case 2:
                data[at : at + 8] = WORDS[rng.integers(len(WORDS))]
            case 3:
                del data[at : at + length]
            case 4:
                data[at:at] = data[at : at + length] * int(rng.integers(1, 5))
            case 5:
                data[at:at] = rng.bytes(length)
            case 6 if rng.random() < 0.3:
                del data[at:]
    return bytes(data)


def change_json(rng: np.random.Generator, valid: bytes) -> bytes:
    """JSON with one or two values, anywhere in it, replaced or removed."""
    tree = json.loads(valid)
    for _ in range(rng.integers(1, 3)):
        places = list(_places(tree))
        if not places:
            break
        holder, key = places[rng.integers(len(places))]
        if rng.random() < 0.2:
            del holder[key]
        else:
            holder[key] = copy.deepcopy(JSON_VALUES[rng.integers(len(JSON_VALUES))])
    return json.dumps(tree).encode()


def _places(tree: Any):
    """Every (container, key) of a JSON tree."""
    keys = list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    for key in keys:
        yield tree, key
        yield from _places(tree[key])


def change_arrays(rng: np.random.Generator, valid: Mapping[str, Any]) -> dict[str, Any]:
    """A dict of arrays, and of texts that stay, with some of the arrays changed, mostly in place; types stay."""
    changed = dict(valid)
    names = [name for name, value in sorted(valid.items()) if isinstance(value, np.ndarray)]
    for name in rng.choice(names, size=rng.integers(1, 4)):
        changed[name] = _changed_array(rng, np.array(changed[name]))
    return changed


def _changed_array(rng: np.random.Generator, array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8 and rng.random() < 0.2:
        return np.frombuffer(change_bytes(rng, array.tobytes()), np.uint8)
    if not array.size:
        return array
    with np.errstate(all="ignore"):
        extremes = np.array([0, 1, 2, 7, 127, 255] if array.dtype == np.uint8 else NUMBERS).astype(array.dtype)
    for _ in range(rng.integers(1, MOST_EDITS + 1)):
        array.flat[rng.integers(array.size)] = extremes[rng.integers(len(extremes))]
    return array


def change_message(rng: np.random.Generator, valid: Any) -> bytes:
    """A protocol buffer with a few fields, anywhere in it, set to extremes, emptied or repeated."""
    message = copy.deepcopy(valid)
    for _ in range(rng.integers(1, MOST_EDITS + 1)):
        _change_field(rng, message)
    return message.SerializeToString()


def _change_field(rng: np.random.Generator, message: Any) -> None:
    fields = [field for field, _ in message.ListFields()]
    if not fields:
        return
    field = fields[rng.integers(len(fields))]
    value = getattr(message, field.name)
    repeated = hasattr(value, "extend")
    if repeated and rng.random() < 0.3:
        _change_list(rng, value)
    elif field.message_type is not None:
        _change_field(rng, value[rng.integers(len(value))] if repeated else value)
    elif repeated:
        value[rng.integers(len(value))] = _extreme(rng, type(value[0]))
    elif rng.random() < 0.2:
        message.ClearField(field.name)
    else:
        _try(lambda: setattr(message, field.name, _extreme(rng, type(value))))


def _change_list(rng: np.random.Generator, values: Any) -> None:
    at = int(rng.integers(len(values)))
    match rng.integers(3):
        case 0:
            del values[at:]
        case 1:
            del values[at]
        case 2:
            values.extend(copy.deepcopy(list(values[: at + 1])))


def change_structure(rng: np.random.Generator, valid: Any) -> bytes:
    """A protocol buffer whose parts are cut, emptied, doubled, swapped, or set to NaN or huge all along a list.

    Whole columns change (a field of all elements of a list), as a converter with a fault writes them.
    """
    message = copy.deepcopy(valid)
    for _ in range(rng.integers(1, 4)):
        place = message
        while (inner := [value for field, value in place.ListFields() if field.message_type]) and rng.random() < 0.65:
            chosen = inner[rng.integers(len(inner))]
            place = chosen[rng.integers(len(chosen))] if hasattr(chosen, "extend") else chosen
        _change_part(rng, place)
    return message.SerializeToString()


def _change_part(rng: np.random.Generator, message: Any) -> None:
    fields = [field for field, _ in message.ListFields()]
    if not fields:
        return
    field = fields[rng.integers(len(fields))]
    value = getattr(message, field.name)
    if not hasattr(value, "extend"):
        alike = [other.name for other in fields if other.type == field.type and not field.message_type]
        if alike and rng.random() < 0.5:
            _swap(message, field.name, alike[rng.integers(len(alike))])
        else:
            message.ClearField(field.name)
    elif field.message_type and rng.random() < 0.5:
        _change_column(rng, value)
    else:
        items = _rearranged(rng, list(copy.deepcopy(list(value))))
        message.ClearField(field.name)
        getattr(message, field.name).extend(items)


def _swap(message: Any, first: str, second: str) -> None:
    one, two = getattr(message, first), getattr(message, second)
    setattr(message, first, two)
    setattr(message, second, one)


def _rearranged(rng: np.random.Generator, items: list) -> list:
    first, second = sorted(int(at) for at in rng.integers(len(items), size=2))
    match rng.integers(8):
        case 0:
            return items[:first]
        case 1:
            return items[:first] + items[second:]
        case 2:
            return []
        case 3:
            return items + items
        case 4:
            return items[: first + 1] + items[first:]
        case 5:
            return items[::-1]
        case 6:
            items[first], items[second] = items[second], items[first]
            return items
    return [items[first]] * len(items)


def _change_column(rng: np.random.Generator, values: Any) -> None:
    """One scalar field of all elements, or of a run of them."""
    fields = [field for field, _ in values[0].ListFields() if not field.message_type and not field.is_repeated]
    if not fields:
        return
    field = fields[rng.integers(len(fields))]
    kind = type(getattr(values[0], field.name))
    first, last = sorted(int(at) for at in rng.integers(len(values) + 1, size=2)) if rng.random() < 0.5 else (0, None)
    constant, factor = _extreme(rng, kind), FACTORS[rng.integers(len(FACTORS))]
    scaled = kind is float and rng.random() < 0.5
    for value in values[first:last]:
        changed = getattr(value, field.name) * factor if scaled else constant
        _try(lambda value=value, changed=changed: setattr(value, field.name, changed))


def _extreme(rng: np.random.Generator, kind: type) -> Any:
    if kind in (str, bytes):
        return kind(b"\x00 /..%s".decode(), "utf-8") if kind is bytes else "\x00 /..%s"
    if kind is bool:
        return bool(rng.integers(2))
    number = NUMBERS[rng.integers(len(NUMBERS))]
    return float(number) if kind is float else int(rng.choice([0, 1, 2, 7, 91, 2**31 - 1, -1]))


def _try(change: Callable[[], None]) -> None:
    """Makes a change, or none where the field's type cannot hold the value."""
    with contextlib.suppress(ValueError):
        change()
