"""The command refuses what it cannot make with one message, before anything is written; a plan refuses the same."""

import errno
import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from tests import forks
from tests.commands import ALONE, refused
from zoo_gen import InputError
from zoo_gen.__main__ import main
from zoo_gen.executors.local import out_of_reach, watch


@pytest.mark.parametrize("plan", ["true", "false"])
@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("seed=-1", "seed must be at least 0"),
        ("gpu=abacus", "choose one of a100"),
        ("executor.device=foo", "choose cpu, cuda"),
        ("executor.device=cuda:x", "choose cpu, cuda"),
        ("executor.processes=-1", "processes must be at least 1"),
        ("executor.processes=0", "processes must be at least 1"),
        ("executor.precision=half", "unknown precision 'half'"),
        ("executor.compile=fast", "unknown compile 'fast'"),
        ("zoo.pretrain_images.classes=[0]", "two or more"),
        ("zoo.pretrain_images.classes=[]", "two or more"),
        ("zoo.finetune_images.classes=[1,1]", "two or more"),
        ("zoo.finetune_images.seed=-1", "has values that it cannot be built of"),
        ("zoo.pretrain_images=1", "must be a card"),
        ("+zoo.pretrain_images.images=1", "three numbers"),
        ("zoo.pretrain.samples=0", "samples must be at least 1"),
        ("zoo.pretrain.recipe.weight_decay=-1", "weight_decay must be at least 0"),
        ("zoo.pretrain.recipe.warmup_epochs=-1", "warmup_epochs must be at least 0"),
        ("zoo.pretrain.recipe.temperature=0", "temperature must be more than 0"),
        ("zoo.pretrain.recipe.flip=2", "flip must be in"),
        ("zoo.pretrain.recipe.epochs=1.5", "epochs must be a whole number"),
        ("zoo.pretrain.members.0.learning_rate=-1", "learning_rate must be more than 0"),
        ("zoo.pretrain.members.0.learning_rate=0", "learning_rate must be more than 0"),
        ("zoo.pretrain.members.0.learning_rate=fast", "learning_rate must be a finite number"),
    ],
)
def test_what_cannot_run_is_one_message_in_a_plan_too_and_leaves_nothing_behind(
    argument: str, message: str, plan: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused(main, "zoo=digits_mini", f"plan={plan}", argument)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["zoo=nope"], "there is no card 'nope' of zoo; choose one of cifar100, cifar_small, digits"),
        (["executor=nope"], "choose one of data_parallel, local"),
        (["plan=maybe"], "plan=maybe does not fit: Value 'maybe' is not a valid bool"),
        (["seed=x"], "seed=x does not fit"),
        (["sede=1"], "there is no setting 'sede'; did you mean seed?"),
        (["zoo.pretrain.epochs=3"], "no setting 'zoo.pretrain.epochs'; did you mean zoo.pretrain.recipe.epochs?"),
        (["zoo.finetune.recipe.xyzzy=3"], "zoo.finetune.recipe has objective, head, "),
        (["xyzzy=3"], "there is no setting 'xyzzy'; --help lists the settings"),
        (["+zoo=digits"], "settings are key=value"),
        (["two words"], "settings are key=value"),
    ],
)
def test_a_wrong_command_line_is_said_in_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    printed = refused(main, *arguments)
    assert message in printed
    assert len(printed.splitlines()) == 1
    assert "HYDRA_FULL_ERROR" not in os.environ
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["/proc/new/zoo", "file/zoo", "file"])
def test_a_place_that_cannot_be_written_is_one_message(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    assert "choose another folder" in refused(main, "zoo=digits_mini", f"path={place}")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("zoo.architecture.img_size=16", "pretrain_images has 8 x 8 pixels of 1 channels, and the architecture has img_size 16"),
        ("zoo.architecture.in_chans=3", "in_chans 3"),
        ("+zoo.architecture.model_args.img_size=12", "img_size 12"),
    ],
)
def test_images_of_another_shape_than_the_model_are_refused_before_anything_is_built(
    argument: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused(main, "zoo=digits_mini", argument)
    cards = ("images@zoo.pretrain_images=imagenet", "images@zoo.finetune_images=imagenet")  # whose images are nowhere
    assert "has 224 x 224 pixels of 3 channels" in refused(main, "zoo=digits_mini", *cards)
    assert not list(tmp_path.iterdir())


def test_help_comes_before_the_imports() -> None:
    script = "import sys; sys.modules.update(torch=None, timm=None, hydra=None, pandas=None, numpy=None); import runpy\n"
    script += "sys.argv = ['-m', '--help']; sys.orig_argv = ['python', '-m', '{0}', '--help']; runpy._run_module_as_main('{0}')"
    for command in ("zoo_gen", "wsl.train", "wsl.predict", "wsl.probe"):
        done = subprocess.run([sys.executable, "-c", script.format(command)], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert "seed: 0" in done.stdout or "coverage: 0.9" in done.stdout
        assert ("Cards of" in done.stdout) == (command in ("zoo_gen", "wsl.train"))
    for command in ("zoo_gen.verify", "wsl.tokenize", "wsl.compression"):
        done = subprocess.run([sys.executable, "-c", script.format(command)], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"usage: python -m {command} ")


def test_ctrl_c_during_the_imports_is_one_line() -> None:
    script = "import sys, runpy; sys.argv = ['-m']; sys.orig_argv = ['python', '-m', 'wsl.train']\n"
    script += "class Slow:\n    def find_spec(self, name, *rest):\n        if name == 'torch': raise KeyboardInterrupt\n"
    script += "sys.meta_path.insert(0, Slow()); runpy._run_module_as_main('wsl.train')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert done.stderr == "error: interrupted\n"


def test_an_unexpected_error_is_one_line_and_traceback_shows_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from zoo_gen.errors import one_clear_error
    from zoo_gen.startup import TRACEBACK

    def said(error: BaseException) -> str:
        with pytest.raises(SystemExit) as exit, one_clear_error():
            raise error
        assert exit.value.code == 1
        return capsys.readouterr().err

    assert said(ZeroDivisionError("by\nnothing")).startswith(
        "error: unexpected ZeroDivisionError (by); run the command with --trace"
    )
    assert said(MemoryError()).startswith("error: out of memory (MemoryError)")
    assert said(RuntimeError("CUDA out of memory. Tried")).startswith("error: out of memory (CUDA")
    assert said(OSError(errno.ENOSPC, "full")).startswith("error: no space left on a disk that is written to")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(TRACEBACK, "1")
        shown = said(ZeroDivisionError("by nothing"))
    assert shown.startswith("Traceback")
    assert shown.splitlines()[-1].startswith("error: unexpected")
    done = forks.command("zoo_gen.verify", "nowhere", "--traceback", cwd=tmp_path)
    assert "Traceback" in done.stderr
    assert "'nowhere' not found" in done.stderr.splitlines()[-1]


def test_a_reader_that_has_gone_is_no_error() -> None:
    script = f"{ALONE}\nfrom zoo_gen.errors import one_clear_error\nwith one_clear_error():\n    print('x' * 10**6)"
    for arguments in (["-c", script], ["-m", "wsl.train", "--help"]):
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run([sys.executable, *arguments], stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
        os.close(writer)
        assert done.returncode in (1, 141)
        assert done.stderr == ""


def test_what_the_locale_cannot_print_is_escaped() -> None:
    def said(*command: str | bytes, **settings: str) -> str:
        given, environment = [sys.executable, *command], {**os.environ, **settings}
        return subprocess.run(given, capture_output=True, text=True, check=False, env=environment).stderr

    odd = said("-m", "zoo_gen.verify", "zoö".encode() + b"\xff", PYTHONIOENCODING="ascii")
    assert odd.startswith("error: zo\\xf6\\udcff has bytes that are not UTF-8")
    script = f"{ALONE}\nsys.argv, sys.orig_argv = ['-m', 'zoö'], ['python', '-m', 'zoo_gen.verify', 'zoö']\n"
    script += "from zoo_gen import startup; startup.begin()\nfrom zoo_gen.errors import InputError, one_clear_error\n"
    script += "with one_clear_error(): raise InputError(sys.argv[1])"
    assert said("-c", script, PYTHONIOENCODING="ascii") == "error: zo\\xf6\n"
    assert said("-c", script, LC_ALL="C") == "error: zoö\n"


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("zoo_gen", "path={}"),
        ("zoo_gen.verify", "{}"),
        ("wsl.tokenize", "{}"),
        ("wsl.compression", "{} --out x.json"),
        ("wsl.predict", "path={}"),
        ("wsl.train", "run={}"),
    ],
)
def test_a_path_that_is_not_utf_8_is_one_line(command: str, arguments: str) -> None:
    done = forks.command(command, *arguments.format(os.fsdecode(b"odd\xff")).split())
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.endswith("odd\\udcff has bytes that are not UTF-8, and libraries cannot open such a path; rename it\n")


def test_a_killed_worker_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "zoo.json").write_text('{"stacks": {"a": {"models": ["m"], "epochs": 1}}}')
    message = r"a worker process was killed, .* goes on where it was"
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool, pytest.raises(InputError, match=message):
        list(watch(tmp_path, {pool.submit(os._exit, 9): "a"}))


def test_ctrl_c_does_not_reach_workers() -> None:
    script = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"

    def blocked() -> str:
        return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()

    with out_of_reach():
        assert blocked() == "True"
    assert blocked() == "False"


def test_required_settings_are_named_with_what_they_are() -> None:
    import wsl.predict

    assert "path= is required: a checkpoint of any kind" in refused(wsl.predict.main, "run=demo")
