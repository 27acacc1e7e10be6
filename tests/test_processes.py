"""Two processes train together; one is killed; the other says so, and one goes on alone."""

import csv
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_training import fit, loader, losses, network

TESTS = Path(__file__).parent
pytestmark = pytest.mark.slow
MEMBER = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from test_training import fit, loader, network
from recon_lib import __main__ as shell
from recon_lib.training import loop

victim, at, calls, real = int(sys.argv[3]), int(sys.argv[4]), [], loop.gradient_step

def step(*args, **kwargs):
    calls.append(1)
    if len(calls) == at and int(os.environ["RANK"]) == victim:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **kwargs)

loop.gradient_step = step
shell.app = lambda **_: fit(
    Path(sys.argv[2]), "two", True, loader=loader(batch_size=4, vectors=True), lr=3e-3,
    model=network(condition_size=3, dropout=0.0), epochs=4, checkpoint_minutes=0, precision="no",
)
shell.main()
"""


def start(tmp_path, victim=-1, at=-1):
    """Start both by hand, so that nobody but the training itself notices that one is gone."""
    script = tmp_path / "member.py"
    script.write_text(MEMBER)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    members = []
    for rank in range(2):
        env = {**os.environ, "PYTHONPATH": str(TESTS.parent), "OMP_NUM_THREADS": "1",
               "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2",
               "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        members.append(subprocess.Popen(
            [sys.executable, script, TESTS, tmp_path, str(victim), str(at)], env=env,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    try:
        return [(*member.communicate(timeout=120), member.returncode) for member in members]
    finally:
        for member in members:
            member.kill()


@pytest.mark.parametrize("victim", [0, 1])
def test_survivors_say_what_happened_and_one_process_goes_on(tmp_path, victim):
    ends = start(tmp_path, victim, at=6)
    assert ends[victim][2] == -9
    _, said, code = ends[1 - victim]
    line = said.strip().splitlines()[-1]
    assert code == 2 and line.startswith("recon_lib: another process of this training is gone")
    assert "step 5" in line and str(tmp_path / "two" / "checkpoint.pt") in line
    assert "Traceback" not in said
    # the checkpoint is whole, and of the last step that both finished
    state = torch.load(tmp_path / "two" / "checkpoint.pt", weights_only=True)
    assert state["step"] == 5 and not list((tmp_path / "two").glob(".partial*"))
    with open(tmp_path / "two" / "loss.csv", newline="") as file:  # by one process only
        assert [int(row["step"]) for row in csv.DictReader(file)] == [1, 2, 3, 4, 5]
    alone = dict(epochs=4, lr=3e-3, precision="no", loader=loader(batch_size=8, vectors=True))
    fit(tmp_path, "two", True, model=network(condition_size=3, dropout=0.0),
        model_in=tmp_path / "two" / "checkpoint.pt", **alone)
    fit(tmp_path, "one", True, model=network(condition_size=3, dropout=0.0), **alone)
    curves = [torch.tensor(losses(tmp_path / name)) for name in ("two", "one")]
    torch.testing.assert_close(*curves, rtol=1e-3, atol=1e-4)  # as if nothing had happened


def test_no_picture_goes_to_two_processes():
    whole = loader(n=25, batch_size=4)
    for epoch in (0, 3):
        shares = [whole.shard(rank, 3) for rank in range(3)]
        for share in shares:
            share.set_epoch(epoch)
        seen = [set(share._order().tolist()) for share in shares]
        assert [len(one) for one in seen] == [8, 8, 8] and len(set().union(*seen)) == 24
