"""Streams of code: what they teach and ask, and that strategies learn from them."""

from dataclasses import dataclass, replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from small import libraries
from torch import nn

from clbench.catalogue import resolve
from clbench.code import read
from clbench.code_models import GPT, HashedContext
from clbench.code_tokens import blocks, pool_of, vocabulary
from clbench.data import Data, Source
from clbench.errors import Mistake
from clbench.learner import Learner
from clbench.loss_mask import NEEDS, LossMask
from clbench.metric import Look, exact
from clbench.metrics.calls import CALLS
from clbench.metrics.ranks import Ranks
from clbench.metrics.usage import Usage, bleu, call, keyword_f1, written
from clbench.strategies.consolidation import EWC
from clbench.strategies.er_ace import ERACE
from clbench.strategies.replay import ER
from clbench.strategy import Strategy, lacking, needs
from clbench.stream import Exam, Stream, Syllabus
from clbench.streams.api_evolution import Domains
from clbench.streams.api_releases import Releases
from clbench.testing import check_resume, check_stream
from clbench.transform import Transform

SMALL = {"packages": ["jinja2", "hydra-core", "tabulate"], "domains": ("language", "system"), "test_share": 0.3}
TOKENS = {**SMALL, "form": "code", "context": 32, "vocabulary": 300, "samples": 8, "exam_samples": 20}
LEARNER = Learner(epochs=1, batch=16, optimizer="adamw", lr=0.01, threads=1, device="cpu", eval_batch=64)
needs_tokenizers = pytest.mark.skipif(
    not (find_spec("tokenizers") and find_spec("transformers")), reason="needs pip install 'clbench[code]'"
)


def test_domains_share_no_api_and_no_file_crosses_the_split():
    stream = Domains(**SMALL, rare=1)
    stream.open(0)
    code = read(SMALL["packages"], 0.3)
    lessons, papers = stream._plan(code)
    files = code.arrays["file"][code.sites[:, 0]]
    apis = code.sites[:, 1]
    assert not set(apis[lessons[0]]) & set(apis[lessons[1]])
    taught, asked = np.concatenate(lessons), np.concatenate([paper.sites for paper in papers])
    assert not set(files[taught]) & set(files[asked])
    assert all(0 < exam.coverage <= 1 for exam in stream.exams())
    names = {api.rpartition(".")[2] for api in code.apis}
    assert set(stream._samples.labels) <= names
    x, y = stream[0].train.gather(torch.arange(1))
    site = code.sites[lessons[0][0]]
    assert stream._samples.labels[int(y)] == code.apis[site[1]].rpartition(".")[2]
    last = code.arrays["tokens"][code.arrays["token_at"][site[0]] + site[2] - 1]
    assert int(x[0, -1]) == int(last) % (2**24 - 1) + 1


def test_releases_tell_what_is_new_lives_on_and_is_gone():
    stream = Releases(packages=libraries())
    stream.open(0)
    code = read(libraries(), 0.25)
    lessons, papers = stream._plan(code)
    called = {
        paper.name: {code.apis[api].rpartition(".")[2][:-1] for api in code.sites[paper.sites, 1]} for paper in papers
    }
    assert called == {"lives": {"keep"}, "new 1": {"fresh"}, "gone 1": {"old"}}
    assert [(paper.since, paper.until) for paper in papers] == [(0, None), (1, None), (0, 1)]
    assert {code.apis[api].rpartition(".")[2][:-1] for api in code.sites[lessons[1], 1]} == {"keep", "fresh"}
    assert len(stream.checksums()) == 4
    with pytest.raises(Mistake, match=r"^stream=api_releases needs two or more releases .* alpha 1, beta 1\.$"):
        Releases(packages=libraries()[:2]).open(0)


def test_a_file_that_is_held_out_is_held_out_in_every_release():
    stream = Releases(packages=libraries(), validation=0.5)
    assert (stream.version, Releases().version) == (2, 1)
    code = read(libraries(), 0.25)
    held = {code.card["files"][file] for file in code.arrays["file"][stream._held_out(code)]}
    kept = {code.card["files"][file] for file in code.arrays["file"][~stream._held_out(code)]}
    assert held
    assert kept
    assert not held & kept


def test_mistakes_of_options_are_one_line():
    with pytest.raises(Mistake, match=r"^There is no domain of APIs named 'netwerk'"):
        Domains(**{**SMALL, "domains": ("netwerk",)}).open(0)
    with pytest.raises(Mistake, match=r"^stream\.ask=usage asks for a whole call"):
        Domains(**SMALL, ask="usage").open(0)


def test_a_classifier_of_calls_goes_on_after_an_interruption():
    stream = Domains(**SMALL, rare=1, samples=60, exam_samples=20)
    check_resume(ER(20), stream=stream, model=HashedContext(8, 256), learner=LEARNER)


def test_hashed_context_sees_order_and_not_what_is_not_there():
    torch.manual_seed(0)
    model = HashedContext(16, 2**14).build((6,), 3)
    x = torch.tensor([[0, 0, 0, 0, 5, 9], [0, 0, 0, 0, 9, 5], [0, 0, 0, 0, 5, 9]]).float()
    with torch.inference_mode():
        first, turned, same = model(x)
    assert torch.equal(first, same)
    assert not torch.allclose(first, turned)


@needs_tokenizers
def test_an_exam_of_tokens_asks_for_the_call_alone():
    for ask, whole in (("call", False), ("usage", True)):
        stream = Domains(**TOKENS, ask=ask)
        check_stream(lambda stream=stream: replace(stream))
        stream.open(0)
        words = stream.transform()
        for exam in stream.exams():
            x, y = exam.data.gather(torch.arange(len(exam.data)))
            assert ((y >= 0).sum(1) > 0).all()
            for tokens, labels in zip(x, y, strict=True):
                asked = labels[labels >= 0]
                text = words.text(asked.tolist()).strip()
                assert text.endswith(")") == whole or not whole
                first = int((labels >= 0).nonzero()[0])
                assert torch.equal(tokens[first + 1 : first + len(asked)], asked[:-1].int())


@needs_tokenizers
def test_the_pool_calls_no_domain_and_blocks_predict_the_next_token():
    code = read(SMALL["packages"], 0.3)
    texts = b"\n".join(code.source(function) for function in pool_of(code))
    assert b"os.path.join(" not in texts
    assert b"functools.partial(" not in texts
    x, y = blocks(np.arange(10), 3)
    assert x.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert y.tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    words = vocabulary(SMALL["packages"], 0.3, 300)
    [(tokens, ends)] = words.encode(["é = os.path.join(a)".encode()])
    assert words.text(tokens.tolist()) == "é = os.path.join(a)"
    assert ends[-1] == len("é = os.path.join(a)".encode())


@needs_tokenizers
def test_a_gpt_begins_with_what_it_learned_from_the_pool_and_goes_on_after_an_interruption():
    small = {"packages": SMALL["packages"], "test_share": 0.3, "vocabulary": 300, "context": 32}
    model = GPT(layers=1, heads=2, width=16, steps=30, batch=8, lr=0.01, **small)
    stream = Domains(**TOKENS)
    stream.open(0)
    model.check(stream)
    x, y = stream[0].train.gather(torch.arange(16))
    loss = nn.functional.cross_entropy
    with torch.no_grad():
        learned, random = (loss(m.build((32,), 300)(x.float()), y) for m in (model, replace(model, steps=0)))
    assert learned < random - 0.5
    check_resume(EWC(ER(20), fisher_samples=8), stream=Domains(**TOKENS), model=model, learner=LEARNER)
    other = Domains(**SMALL)
    other.open(0)
    with pytest.raises(Mistake, match=r"^A language model predicts tokens"):
        model.check(other)


@needs_tokenizers
def test_what_takes_one_label_a_sample_is_refused_where_a_sample_has_many():
    words, blocks = Domains(**SMALL, rare=1), Domains(**TOKENS)
    for stream, lacks in ((words, []), (blocks, ["single labels"])):
        stream.open(0)
        for needed in (needs(ERACE()), NEEDS["batch"]):
            assert lacking(needed, stream, resolve("model", "mlp")()) == lacks


def test_a_sequence_is_right_where_all_that_is_asked_for_is():
    labels = np.array([[-100, 3, 4], [-100, 3, 4], [7, -100, -100]])
    given = np.array([[9, 3, 4], [9, 3, 5], [7, 1, 2]])
    assert exact(given, labels).tolist() == [True, False, True]
    assert exact(np.array([1, 2]), np.array([1, 3])).tolist() == [True, False]


def test_labels_of_sequences_go_through_memory_and_loss():
    learner = Learner(threads=1, device="cpu")
    learner._criterion, learner._mask = Stream.criterion, LossMask("seen", 5, torch.device("cpu"))
    with pytest.raises(Mistake, match=r"^learner\.loss_mask=seen is for one label a sample"):
        learner.criterion(torch.zeros(2, 5, 3), torch.zeros(2, 3, dtype=torch.int64))
    learner._mask = LossMask("all", 5, torch.device("cpu"))
    y = torch.tensor([[0, -100, 1], [-100, -100, 2]])
    logits = torch.randn(2, 5, 3)
    rows = logits.permute(0, 2, 1).reshape(-1, 5)[y.flatten() >= 0].log_softmax(1)
    by_hand = -rows[torch.arange(3), y[y >= 0]].mean()
    assert torch.allclose(learner.criterion(logits, y), by_hand)


@dataclass
class Says(Strategy):
    """Always the same logits, of four labels."""

    def predict(self, learner: Learner, x: torch.Tensor) -> torch.Tensor:
        return torch.tensor([[4.0, 3.0, 2.0, 9.0]]).expand(len(x), 4)


@dataclass
class Writes(Strategy):
    """Each token is followed by the next number."""

    def predict(self, learner: Learner, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.one_hot((x.long() + 1) % 50, 50).transpose(1, 2).float()


def test_calls_are_written_one_token_after_another():
    learner = Learner(threads=1, device="cpu")
    learner.where, learner._transform = torch.device("cpu"), Transform()
    look = Look(1, 0, learner, Writes(), Syllabus(1, 50, (6,), (4,), True, (6,)), [], frozenset())
    raw = torch.tensor([[3, 4, 0, 0, 0, 0], [5, 6, 7, 8, 9, 10]], dtype=torch.int32)
    found = written(look, raw, torch.tensor([2, 6]))
    assert found.tolist() == [list(range(5, 35)), list(range(11, 41))]


class Letters(Transform):
    """Token t is the letter at place t."""

    def text(self, tokens: list[int]) -> str:
        return "".join("_f(a=1)zzz"[min(token, 9)] for token in tokens)


def test_a_call_that_is_written_as_it_stands_has_full_marks():
    learner = Learner(threads=1, device="cpu")
    learner.where, learner._transform = torch.device("cpu"), Letters()
    x = torch.tensor([[0, 1, 2, 3, 4, 5, 0, 0]], dtype=torch.int32)
    y = torch.tensor([[1, 2, 3, 4, 5, 6, -100, -100]])
    exam = Exam("one", Data(Source(x, y), torch.arange(1)), frozenset(range(50)), since=0, score="usage")
    look = Look(1, 0, learner, Writes(), Syllabus(1, 50, (8,), (4,), True, (8,)), [exam], frozenset())
    rows = {row.metric: row.value for row in Usage()(look)}
    assert rows == pytest.approx({"usage/exact": 1, "usage/bleu": 1, "usage/keyword_f1": 1})


def test_bleu_and_keywords_by_hand():
    assert call("f(a, (b), c=')') + g(d)") == "f(a, (b), c=')')"
    assert bleu("f(a, b)", "f(a, b)") == pytest.approx(1)
    # 1-grams 5 of 6, 2-grams (3+1)/(5+1), 3-grams (2+1)/(4+1), 4-grams (1+1)/(3+1)
    assert bleu("f(a, c)", "f(a, b)") == pytest.approx((5 / 6 * 4 / 6 * 3 / 5 * 2 / 4) ** 0.25)
    assert bleu("f(a)", "f(a, b)") < bleu("f(a, c)", "f(a, b)")
    assert bleu("", "f(a)") == 0
    assert keyword_f1("f(a=1, b=2)", "f(0, a=3)") == pytest.approx(2 / 3)
    assert keyword_f1("f(a==1)", "f(a=3)") == 0


def test_ranks_among_the_labels_of_the_exam():
    stream = Domains(**SMALL, rare=1)
    stream.open(0)
    data = stream.exams()[0].data.subset(torch.arange(4))
    data.labels = torch.tensor([0, 1, 1, 2])
    exam = Exam("one", data, frozenset({0, 1, 2}), since=0)
    learner = Learner(threads=1, device="cpu", eval_batch=3)
    learner.where, learner._transform = torch.device("cpu"), stream.transform()
    look = Look(1, 0, learner, Says(), Syllabus(1, 4, (56,), (4,), False), [exam], frozenset({0, 1, 2}))
    rows = {row.metric: row.value for row in Ranks()(look)}
    assert rows == pytest.approx(
        {"rank/hit1": 0.25, "rank/hit5": 1.0, "rank/hit10": 1.0, "rank/mrr": (1 + 2 * 0.5 + 1 / 3) / 4}
    )
    assert CALLS["rank/hit5"].compute([]).number is None


@dataclass
class Mute(Strategy):
    def predict(self, learner: Learner, x: torch.Tensor) -> torch.Tensor:
        return torch.full((len(x), 4), float("nan"))


def test_an_answer_that_is_no_number_ranks_last():
    stream = Domains(**SMALL, rare=1)
    stream.open(0)
    data = stream.exams()[0].data.subset(torch.arange(4))
    data.labels = torch.tensor([0, 1, 1, 2])
    learner = Learner(threads=1, device="cpu", eval_batch=3)
    learner.where, learner._transform = torch.device("cpu"), stream.transform()
    exam = Exam("one", data, frozenset({0, 1, 2}), since=0)
    look = Look(1, 0, learner, Mute(), Syllabus(1, 4, (56,), (4,), False), [exam], frozenset({0, 1, 2}))
    assert {row.value for row in Ranks()(look) if row.metric == "rank/mrr"} == {1 / 4}
