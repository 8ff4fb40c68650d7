"""Memories and deltas: exact on disk and in sums, stored by content, damage noticed by name."""

import hashlib
import json
from dataclasses import FrozenInstanceError
from itertools import permutations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perdure import memory as memories
from perdure.errors import LineageError
from perdure.memory import Memory
from perdure.memory.delta import Change, Delta, balanced

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
NAMES = st.text("abcdefghij./_-0123456789", min_size=1, max_size=30)
SHAPES = st.lists(st.integers(0, 5), max_size=3)
quick = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def random_tensor(shape, seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(tuple(shape), generator=generator) * 100).to(dtype)


@st.composite
def some_memory(draw):
    contents = draw(st.dictionaries(NAMES, st.tuples(SHAPES, st.integers(0, 9), st.sampled_from(DTYPES)), max_size=6))
    tensors = {name: random_tensor(*content) for name, content in contents.items()}
    return Memory(tensors, draw(st.dictionaries(NAMES, st.integers() | st.text() | st.booleans(), max_size=3)))


def factors(rank, into, out, seed=0):
    return random_tensor((rank, into), seed) / 100, random_tensor((out, rank), seed + 1000) / 100


def pack_of(store):
    (pack,) = store.glob("*.safetensors")
    return pack


# --- on disk -------------------------------------------------------------------------------------------------------


@quick
@given(some_memory())
def test_round_trip_is_bit_equal(tmp_path_factory, memory):
    folder = tmp_path_factory.mktemp("memory")
    memories.save(memory, folder / "memory.json", folder / "store")
    read = memories.load(folder / "memory.json", folder / "store")
    assert read.tensors.keys() == memory.tensors.keys() and read.facts == memory.facts
    for name, tensor in memory.tensors.items():
        assert read.tensors[name].dtype == tensor.dtype and torch.equal(read.tensors[name], tensor)
    assert read.digest == memory.digest and read.nbytes == memory.nbytes


def test_special_values_survive(tmp_path):
    values = torch.tensor([float("nan"), float("inf"), -0.0, 1e-45])
    memories.save(Memory({"x": values}), tmp_path / "m.json", tmp_path)
    read = memories.load(tmp_path / "m.json", tmp_path).tensors["x"]
    assert torch.equal(read.view(torch.int32), values.view(torch.int32))


def test_views_are_stored_as_what_they_show(tmp_path):
    whole = random_tensor((6, 8), 0)
    memory = Memory({"transposed": whole.T, "part": whole[1:3, ::2]})
    memories.save(memory, tmp_path / "m.json", tmp_path)
    read = memories.load(tmp_path / "m.json", tmp_path)
    assert all(torch.equal(read.tensors[name], tensor) for name, tensor in memory.tensors.items())


def test_an_additive_lesson_writes_its_own_tensors_only(tmp_path):
    store, delta = tmp_path / "store", Delta()
    for number in range(3):
        delta = delta + Delta({f"p{p}": Change.low_rank(*factors(2, 64, 48, seed=10 * number + p)) for p in range(4)})
        before = sum(pack.stat().st_size for pack in store.glob("*"))
        stored = memories.save(Memory().with_delta(delta), tmp_path / f"{number}.json", store)
        own = 4 * 2 * (64 + 48) * 4
        assert own <= stored <= own + 2500  # a safetensors header, with a digest for each tensor
        assert sum(pack.stat().st_size for pack in store.glob("*")) == before + stored
    assert len(list(store.iterdir())) == 3
    for number in range(3):
        read = memories.load(tmp_path / f"{number}.json", store).delta()
        assert all(change.rank == 2 * (number + 1) for change in read.values())
        assert torch.equal(read["p0"].pairs[0][0], delta["p0"].pairs[0][0])
    places = json.loads((tmp_path / "2.json").read_text())["tensors"].values()
    assert {pack for _, pack in places} == {pack.name for pack in store.iterdir()}


def test_equal_tensors_are_stored_once_and_an_equal_memory_not_at_all(tmp_path):
    memory = Memory({"a": torch.ones(1000), "b": torch.ones(1000)})
    assert memories.save(memory, tmp_path / "1.json", tmp_path / "store") < 5000
    assert memories.save(memory, tmp_path / "2.json", tmp_path / "store") == 0
    assert memories.load(tmp_path / "2.json", tmp_path / "store").digest == memory.digest


def test_the_empty_memory(tmp_path):
    assert memories.save(Memory(), tmp_path / "m.json", tmp_path / "store") == 0
    read = memories.load(tmp_path / "m.json", tmp_path / "store")
    assert read.nbytes == 0 and read.digest == Memory().digest and len(read.delta()) == 0


# --- damage --------------------------------------------------------------------------------------------------------


@pytest.fixture
def stored(tmp_path):
    memories.save(Memory({"x": random_tensor((9,), 0)}, {"n": 1}), tmp_path / "memory.json", tmp_path / "store")
    return tmp_path


@pytest.mark.parametrize("place", [0, 20, -1])
def test_a_damaged_byte_is_noticed_by_the_files_name(stored, place):
    pack = pack_of(stored / "store")
    data = bytearray(pack.read_bytes())
    data[place] ^= 1
    pack.write_bytes(data)
    with pytest.raises(LineageError, match=f"{pack.name} is damaged"):
        memories.load(stored / "memory.json", stored / "store")


def test_a_missing_pack_is_named(stored):
    pack_of(stored / "store").unlink()
    with pytest.raises(LineageError, match=r"cannot read .*\.safetensors: No such file"):
        memories.load(stored / "memory.json", stored / "store")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"format": 2}, "has format 2; this version of perdure reads format 1"),
        ({"facts": {"n": 2}}, "memory.json is damaged"),
        ({"tensors": {}}, "memory.json is damaged"),
    ],
)
def test_a_record_that_is_not_its_digests_is_refused(stored, change, word):
    path = stored / "memory.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(LineageError, match=word):
        memories.load(path, stored / "store")


def test_a_tensor_that_its_pack_does_not_hold(stored):
    path = stored / "memory.json"
    record = json.loads(path.read_text())
    record["tensors"]["x"][0] = "0" * 64
    record["digest"] = hashlib.sha256(json.dumps([{"x": "0" * 64}, {"n": 1}], sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(record))
    with pytest.raises(LineageError, match="which its pack in"):
        memories.load(path, stored / "store")


def test_what_is_no_record(tmp_path):
    with pytest.raises(LineageError, match="cannot read"):
        memories.load(tmp_path / "none.json", tmp_path)
    (tmp_path / "m.json").write_text("not json")
    with pytest.raises(LineageError, match="it is not JSON"):
        memories.load(tmp_path / "m.json", tmp_path)


# --- values --------------------------------------------------------------------------------------------------------


def test_values_are_frozen():
    memory, change = Memory(), Change.full(torch.ones(2, 2))
    for value, name in ((memory, "facts"), (change, "dense"), (Delta(), "changes")):
        with pytest.raises(FrozenInstanceError):
            setattr(value, name, None)
    more = memory.with_facts(a=1).with_tensors("t", {"x": torch.ones(1)}).with_delta(Delta({"p": change}))
    assert memory.tensors == {} and memory.facts == {} and more.facts == {"a": 1}


def test_a_memory_does_not_share_what_goes_on_being_trained():
    a, b = (torch.nn.Parameter(factor) for factor in factors(2, 30, 20))
    memory = Memory().with_delta(Delta({"p": Change.low_rank(a, b)})).with_tensors("past", {"p": a})
    digest = memory.digest
    with torch.no_grad():
        a.zero_()
    assert memory.digest == digest and not any(t.requires_grad for t in memory.tensors.values())


def test_names_below_a_name():
    """`with_delta` and `with_tensors` replace what they name, and only that."""
    memory = (
        Memory()
        .with_tensors("past", {"p": torch.ones(1), "q": torch.ones(2)})
        .with_tensors("past_rows", {"p": torch.ones(3)})
    )
    memory = memory.with_tensors("past", {"p": torch.zeros(1)})
    assert memory.under("past").keys() == {"p"} and memory.under("past_rows")["p"].shape == (3,)
    kept = memory.with_delta(Delta({"mid.attn.to_k": Change.full(torch.ones(2, 3))}), name="own/dog")
    assert kept.delta("own/dog")["mid.attn.to_k"].shape == (2, 3) and len(kept.delta("own/do")) == 0
    assert kept.with_delta(Delta(), name="own/dog").tensors.keys() == memory.tensors.keys()


def test_digest_sees_everything_but_the_order():
    one = Memory({"a": torch.ones(2), "b": torch.zeros(2)}, {"x": 1, "y": 2})
    assert Memory({"b": torch.zeros(2), "a": torch.ones(2)}, {"y": 2, "x": 1}).digest == one.digest
    others = [
        Memory({"a": torch.ones(2), "c": torch.zeros(2)}, one.facts),
        Memory({"a": torch.ones(2), "b": torch.tensor([0.0, 1e-30])}, one.facts),
        Memory({"a": torch.ones(2), "b": torch.zeros(2).double()}, one.facts),
        Memory({"a": torch.ones(2), "b": torch.zeros(2, 1)}, one.facts),
        Memory(one.tensors, {"x": 1, "y": 3}),
    ]
    assert len({memory.digest for memory in [one, *others]}) == 6


def test_a_delta_comes_back_by_projections_whose_names_hold_slashes():
    one, two = factors(1, 6, 5), factors(1, 6, 5, seed=1)
    delta = Delta({"mid/attn": Change((one, two)), "p": Change.full(torch.ones(2, 3))})
    memory = Memory({"other": torch.ones(1)}, {"n": 1}).with_delta(delta, "own/dog")
    assert list(memory.tensors) == ["other", *(f"own/dog/mid/attn/{k}" for k in ("0.A", "0.B", "1.A", "1.B")),
                                    "own/dog/p/dense"]  # fmt: skip
    assert memory.delta("own/dog").digest == delta.digest and list(memory.delta("own/dog")) == ["mid/attn", "p"]
    assert memory.facts == {"n": 1} and not memory.delta()
    again = memory.with_delta(delta)
    assert again.delta().digest == delta.digest and len(again.tensors) == 11


def test_tensors_below_a_name_are_copies_in_their_own_dtype():
    whole = torch.arange(6, dtype=torch.int16).view(2, 3)
    memory = Memory({"a/x": torch.ones(1), "b/x": torch.zeros(1)}, {"n": 1}).with_tensors("a", {"y": whole.T})
    kept = memory.tensors["a/y"]
    whole.zero_()
    assert list(memory.tensors) == ["b/x", "a/y"] and memory.facts == {"n": 1}
    assert kept.tolist() == [[0, 3], [1, 4], [2, 5]] and kept.dtype == torch.int16 and kept.is_contiguous()
    told = memory.with_facts(n=2, more=[3])
    assert told.facts == {"n": 2, "more": [3]} and told.tensors is memory.tensors


def test_what_is_kept_under_a_concepts_own_name_is_left_out():
    """Not what goes by projections and tokens, not names that only begin alike, not a name with nothing below it."""
    gone = {"own/dog/p/dense", "features/dog"}
    keys = [*gone, "delta/dog/dense", "words/dog/0", "own/doggy/p/dense", "own/cat/dog", "dog", "dog/cat"]
    facts = {
        "delta": {"dog": 1}, "words": {"dog": 2}, "captions": {"dog": ["a"], "cat": ["dog"]}, "kept": ["dog", "cat"],
        "said": "dog", "n": 1,
    }  # fmt: skip
    memory = Memory({key: torch.ones(1) for key in keys}, facts).without("dog")
    assert set(memory.tensors) == set(keys) - gone
    assert memory.facts == facts | {"captions": {"cat": ["dog"]}, "kept": ["cat"]}


def test_bytes_are_counted_under_each_name():
    memory = Memory(
        {"a/x": torch.ones(3), "a/y/z": torch.ones(2, 2, dtype=torch.float16), "b": torch.ones(5, dtype=torch.uint8)}
    )
    assert memory.bytes_by_name() == {"a": 12 + 8, "b": 5} and memory.nbytes == 25


def test_what_a_stored_memory_looks_like(tmp_path):
    """Packs by the head of their content's SHA-256, tensors in them by that of dtype, shape and bytes."""

    def sha(data):
        return hashlib.sha256(data).hexdigest()

    x, y = torch.tensor([1.0, 2.0]), torch.tensor([[3]], dtype=torch.int64)
    own = [sha(b"torch.float32(2,)" + x.numpy().tobytes()), sha(b"torch.int64(1, 1)" + y.numpy().tobytes())]
    store, path = tmp_path / "store", tmp_path / "m.json"
    assert memories.save(Memory({"a/x": x}, {"n": 1}), path, store) == pack_of(store).stat().st_size
    first = pack_of(store).name
    size = memories.save(Memory({"b/y": y, "a/x": x, "a/y": y}, {"n": [2], "m": None}), path, store)
    (second,) = {pack.name for pack in store.iterdir()} - {first}
    for pack, digest, tensor in ((first, own[0], x), (second, own[1], y)):
        data = (store / pack).read_bytes()
        assert pack == f"{sha(data)[:32]}.safetensors"
        (held,) = memories.read_pack(store / pack).items()
        assert held[0] == digest and torch.equal(held[1], tensor)
    assert size == (store / second).stat().st_size
    index = f'[{{"a/x": "{own[0]}", "a/y": "{own[1]}", "b/y": "{own[1]}"}}, {{"m": null, "n": [2]}}]'
    assert json.loads(path.read_text()) == {
        "format": 1, "digest": sha(index.encode()), "facts": {"n": [2], "m": None},
        "tensors": {"b/y": [own[1], second], "a/x": [own[0], first], "a/y": [own[1], second]},
    }  # fmt: skip
    assert memories.read_index(path) == json.loads(path.read_text())
    again = memories.load(path, store)
    assert again.facts == {"n": [2], "m": None} and list(again.tensors) == ["b/y", "a/x", "a/y"]


def test_who_reads_a_damaged_memory_is_told_which_file_and_what_to_do(stored):
    path, pack = stored / "memory.json", pack_of(stored / "store")
    whole, record = pack.read_bytes(), json.loads(path.read_text())
    told = []

    def read(*, what=memories.load):
        with pytest.raises(LineageError) as error:
            what(path, stored / "store") if what is memories.load else what(pack)
        told.append(str(error.value))

    pack.write_bytes(whole + b" ")
    read(what=memories.read_pack)
    pack.unlink()
    read(what=memories.read_pack)
    pack.write_bytes(whole)
    odd = stored / f"{hashlib.sha256(b'odd').hexdigest()[:32]}.safetensors"
    odd.write_bytes(b"odd")
    with pytest.raises(LineageError, match=f"{odd.name} is damaged: it is not a safetensors file"):
        memories.read_pack(odd)
    record["tensors"]["x"][0] = "0" * 64
    path.write_text(json.dumps(record))
    read()
    record["digest"] = hashlib.sha256(json.dumps([{"x": "0" * 64}, {"n": 1}]).encode()).hexdigest()
    path.write_text(json.dumps(record))
    read()
    remedy = "restore it from a copy"
    assert told == [
        f"{pack} is damaged (its content does not match its name); {remedy}",
        f"cannot read {pack}: No such file or directory; {remedy}",
        f"{path} is damaged (its content does not match its digest); {remedy}",
        f"{path} refers to tensor '{'0' * 64}', which its pack in {stored / 'store'} does not hold; {remedy}",
    ]


# --- deltas --------------------------------------------------------------------------------------------------------


def one_change(kind, seed, shape=(20, 30)):
    out, into = shape
    return (
        Change.full(random_tensor(shape, seed) / 100) if kind == 0 else Change.low_rank(*factors(kind, into, out, seed))
    )


@quick
@given(st.lists(st.sampled_from([0, 1, 3, 8, 13]), min_size=3, max_size=3))
def test_sums_do_not_depend_on_order_or_grouping(kinds):
    x, y, z = (Delta({"p": one_change(kind, seed)}) for seed, kind in enumerate(kinds))
    exact = sum(part["p"].matrix() for part in (x, y, z))
    for a, b, c in permutations((x, y, z)):
        torch.testing.assert_close(((a + b) + c)["p"].matrix(), exact)
        torch.testing.assert_close((a + (b + c))["p"].matrix(), exact)


@pytest.mark.parametrize(("rank", "is_dense"), [(11, False), (12, True), (13, True)])
def test_break_even(rank, is_dense):
    """20 x 30: 600 numbers dense, 50 for each rank."""
    change = one_change(rank, 0)
    assert (change.rank is None) == is_dense
    assert Delta({"p": change}).nbytes == 4 * min(600, 50 * rank)


def test_dense_stays_dense_and_parts_come_back():
    for kind in (0, 3):
        change = one_change(kind, 0)
        again = Change.from_tensors(change.tensors())
        assert torch.equal(again.matrix(), change.matrix()) and again.shape == (20, 30) and again.rank == change.rank
    assert one_change(0, 0).plus(one_change(1, 1)).rank is None
    many = Change(
        tuple(pair for seed in range(11) for pair in one_change(1, seed).pairs)
    )  # parts sort as 0, 1, 10, 2 ...
    assert torch.equal(Change.from_tensors(many.tensors()).matrix(), many.matrix())
    names = sorted(many.tensors())
    assert torch.equal(Change.from_tensors({n: many.tensors()[n] for n in names}).matrix(), many.matrix())


def test_half_precision_factors_are_kept_in_float32():
    a, b = (factor.bfloat16() for factor in factors(2, 30, 20))
    change = Change.low_rank(a, b)
    assert {t.dtype for t in change.tensors().values()} == {torch.float32}
    assert torch.equal(change.pairs[0][0], a.float())


def test_projections_that_only_one_side_moves():
    x = Delta({"p": one_change(1, 0), "q": one_change(1, 1)})
    y = Delta({"q": one_change(1, 2), "r": one_change(0, 3)})
    total = x + y
    assert list(total) == ["p", "q", "r"] and total["p"] is x["p"] and total["r"] is y["r"]
    torch.testing.assert_close(total["q"].matrix(), x["q"].matrix() + y["q"].matrix())
    calls = []
    x.combined(y, lambda old, new: calls.append((old, new)) or new)
    assert calls == [(x["q"], y["q"])]
    assert dict((Delta() + x).items()) == dict(x.items()) == dict((x + Delta()).items())


def pair(number, rank=1):
    """Factors of integers (rank, 9) and (8, rank), other ones for each number."""
    return torch.full((rank, 9), float(number)), torch.arange(8.0 * rank).reshape(8, rank) + number


def test_what_was_gained_since_is_left_out_as_it_stands_or_reckoned():
    """Pairs by pairs while all are pairs and the gained ones are there; else by matrices, exact for integers."""
    one, two, three, four = (pair(number) for number in (1, 2, 3, 4))
    product = [b @ a for a, b in (one, two, three, four)]
    whole = Change((one, two, three))
    assert whole.without(Change((one,)), Change((one, two))).pairs == (one, three)
    assert whole.without(None, Change((one, two))).pairs == (three,)
    assert Change((one, two)).without(None, Change((two, one))) is None
    assert whole.without(Change((one,)), Change((one,))).pairs == whole.pairs
    half = Change(((one[0], two[1]), (two[0], one[1])))  # of other pairs, each with one factor in common
    for before, after, gained in (
        (Change((one,)), Change((one, four)), product[3]),
        (None, Change((four,)), product[3]),
        (None, half, half.matrix()),
        (Change.full(product[0]), Change((one, two)), product[1]),
        (Change((one,)), Change.full(product[0] + product[1]), product[1]),
    ):
        left = whole.without(before, after)
        assert left.rank is None and torch.equal(left.matrix(), sum(product[:3]) - gained)
    dense = Change.full(sum(product[:3])).without(Change((one,)), Change((one, two)))
    assert torch.equal(dense.matrix(), product[0] + product[2]) and dense.dense.dtype == torch.float32
    fine = Change.full(torch.tensor([[1.0]])).without(  # 2^-30 beside 1 is lost where it is not reckoned in float64
        Change.full(torch.tensor([[1.0]])), Change.full(torch.tensor([[2.0**-30]]))
    )
    assert fine.matrix().item() == 2.0


def test_a_delta_without_a_lesson_is_the_others():
    one, two, three = (pair(number) for number in (1, 2, 3))
    whole = Delta({"p": Change((one, two)), "q": Change((two,)), "r": Change((three,))})
    left = whole.without(Delta({"p": Change((one,))}), Delta({"p": Change((one, two)), "q": Change((two,))}))
    assert list(left) == ["p", "r"] and left["p"].pairs == (one,) and left["r"] is whole["r"]
    assert left.nbytes == 4 * 2 * (9 + 8) and len(whole) == 3


def test_pairs_are_stacked_to_one_and_summed_with_what_is_dense():
    one, two = pair(1), pair(2, rank=2)
    a, b = Change((one, two)).stacked()
    assert a.shape == (3, 9) and b.shape == (8, 3) and torch.equal(b @ a, one[1] @ one[0] + two[1] @ two[0])
    for x, y in ((Change((one,)), Change.full(two[1] @ two[0])), (Change.full(one[1] @ one[0]), Change((two,)))):
        assert torch.equal(x.plus(y).dense, one[1] @ one[0] + two[1] @ two[0])
    kept = Change.full(torch.ones(3, 2, dtype=torch.float16).T)
    assert kept.dense.dtype == torch.float32 and kept.dense.is_contiguous() and kept.shape == (2, 3)


def test_factors_are_balanced_by_powers_of_two():
    """The larger of their largest entries divided by the smaller is at most 2; the product stays to the bit."""
    for first, second, shift in ((64.0, 1.0, 8.0), (1.0, 64.0, 1 / 8), (-3.0, 3.0, 1.0), (2.0**20, 2.0**-7, 2.0**14)):
        a, b = torch.tensor([[first, 0.5]]), torch.tensor([[second], [0.0]])
        x, y = balanced(a, b)
        assert torch.equal(x, a / shift) and torch.equal(y, b * shift) and torch.equal(y @ x, b @ a)
    for first, second in ((0.0, 3.0), (3.0, 0.0), (float("inf"), 1.0), (1.0, float("inf")), (float("nan"), 1.0)):
        a, b = torch.tensor([[first]]), torch.tensor([[second]])
        assert [t.view(torch.int32).item() for t in balanced(a, b)] == [t.view(torch.int32).item() for t in (a, b)]
