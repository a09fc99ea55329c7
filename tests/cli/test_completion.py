"""Shell completion: its answers, its speed, and the scripts in the shells themselves."""

from __future__ import annotations

import os
import pty
import resource
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clipeval.cli import reports
from clipeval.cli.completion import FILES, complete
from clipeval.cli.main import _parser, main
from clipeval.configs import catalog
from clipeval.configs.compose import compose
from clipeval.results import tables

BIN = Path(sys.executable).parent
MOST_SECONDS = 0.3


def answers(line: str) -> list[str]:
    return complete(line.split(" "), _parser())


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ru", ["run"]),
        ("--ver", ["--version"]),
        ("nothing-such ", []),
        ("run --sh", ["--share"]),
        ("run --config-dir ", [FILES]),
        ("convert s", ["sugar_crepe"]),
        ("list s", ["suites"]),
        ("list tasks --format ", ["json", "table"]),
        ("list tasks data.", ["data.root="]),
        ("show mod", ["model="]),
        ("show task=mni", ["task=mnist"]),
        ("report --format h", ["html"]),
        ("report ", [FILES]),
        ("run runtime.prec", ["runtime.precision="]),
        ("run runtime.precision=f", ["runtime.precision=fp16", "runtime.precision=fp32"]),
        ("run model.em", ["model.ema="]),
        ("run model.ema=", ["model.ema=false", "model.ema=true"]),
        ("run model.pretrained=/da", [FILES]),
        ("run model=vit_b_32_openai,vit_l_14_o", ["model=vit_b_32_openai,vit_l_14_openai"]),
        ("run suite=datacomp ~tasks.mni", ["~tasks.mnist"]),
        ("run suite=datacomp tasks.mnis", ["tasks.mnist."]),
        ("run suite=datacomp tasks.mnist.data.samp", ["tasks.mnist.data.samples="]),
        ("run suite=datacomp tasks.mnist.ties=", ["tasks.mnist.ties=first", "tasks.mnist.ties=reference"]),
        ("run suite=datacomp tasks.mnist.prompts=openai_imagenet_8", ["tasks.mnist.prompts=openai_imagenet_80"]),
        ("run +task@tasks.mine=fmo", ["+task@tasks.mine=fmow"]),
        ("run task=mnist task.met", ["task.metric="]),
        ("run task=xtd10 language=r", ["language=ru"]),
        ("run suite=no_such_suite tasks.", []),
    ],
)
def test_answers(line: str, expected: list[str]) -> None:
    assert answers(line) == expected


def test_presets_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "mine.yaml").write_text("defaults: [mnist]\n")
    assert answers(f"run --config-dir {tmp_path} task=min") == ["task=mine"]


@pytest.mark.parametrize("group", catalog.GROUPS)
def test_every_preset_is_offered(group: str) -> None:
    assert answers(f"run {group}=") == [f"{group}={name}" for name in catalog.group_options(group)]


def test_every_key_that_is_offered_is_one() -> None:
    """Composing with what completion offers finds no unknown key."""
    keys = [key for section in ("runtime.", "data.", "cache.", "probe.", "slurm.") for key in answers(f"run {section}")]
    assert len(keys) > 30
    config = compose([])
    for key in keys:
        section, _, name = key.removesuffix("=").partition(".")
        assert name.split(".")[0] in config[section]


def test_the_formats_of_a_report() -> None:
    assert (*tables.FORMATS, *tables.EXCHANGE) == reports.FORMATS


def test_it_imports_neither_hydra_nor_torch_and_is_quick() -> None:
    script = (
        "import sys; from clipeval.cli.main import main; main(['__complete', 'run', 'suite=datacomp', 'tasks.mnist.']);"
        "print([n for n in ('torch', 'hydra', 'omegaconf', 'pandas', 'numpy', 'rich') if n in sys.modules])"
    )
    spent = []
    for _ in range(4):  # the processor's time: this machine may be doing something else as well
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    lines = done.stdout.splitlines()
    assert "tasks.mnist.metric=" in lines
    assert lines[-1] == "[]"
    assert min(spent) < MOST_SECONDS


SHELLS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], "source <(clipeval completion bash)"),
    "zsh": (["zsh", "-f", "-i"], "autoload -U compinit; compinit -u -D; source <(clipeval completion zsh)"),
    "fish": (["fish", "--no-config", "-i"], "clipeval completion fish | source"),
}


@pytest.mark.parametrize("shell", SHELLS)
def test_in_the_shell_itself(shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    command, setup = SHELLS[shell]
    (tmp_path / "pictures_of_mine").mkdir()
    typed = {
        "echo clipeval; clipeval run model=vit_l_14_o": "vit_l_14_openai",
        "clipeval sta": "status",
        f"clipeval run task=folder task.data.path={tmp_path}/pict": "pictures_of_mine",
    }
    session = _Session(command, tmp_path)
    session.say(setup + "\n")
    session.wait_for("")
    for line, expected in typed.items():
        session.say(line + "\t")
        assert session.wait_for(expected[len(line.rpartition("=")[2].rpartition("/")[2].rpartition(" ")[2]) :])
        session.say("\x15")
    session.close()


class _Session:
    """A shell in a terminal of its own."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self.process, self.terminal = pty.fork()
        if self.process == 0:
            os.chdir(folder)
            os.environ.update(
                TERM="xterm", PS1="$ ", PATH=f"{BIN}:{os.environ['PATH']}", HOME=str(folder), COLUMNS="200"
            )
            os.execvp(command[0], command)
        self._poll = select.poll()  # unlike select.select, of descriptors beyond 1024 as well
        self._poll.register(self.terminal, select.POLLIN)

    def say(self, text: str) -> None:
        os.write(self.terminal, text.encode())

    def wait_for(self, text: str, seconds: float = 20.0) -> bool:
        """Reads until the text is there; without one, until nothing comes for a second."""
        found, end = "", time.monotonic() + seconds
        while time.monotonic() < end:
            ready = self._poll.poll(1500)
            if not ready:
                if not text:
                    return True
                continue
            found += os.read(self.terminal, 65536).decode(errors="replace")
            if text and text in found:
                return True
        return not text

    def close(self) -> None:
        os.close(self.terminal)
        os.waitpid(self.process, 0)


def test_an_unknown_shell(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["completion", "tcsh"])
    assert "bash" in capsys.readouterr().err
