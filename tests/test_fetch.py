"""Fetching, from a server of our own on this machine: nothing is downloaded from anywhere else."""

import gzip
import hashlib
import io
import json
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest

from recon_lib import __main__ as shell
from recon_lib.common.errors import DataError
from recon_lib.common.folders import alone_in
from recon_lib.data import download, fetch
from recon_lib.data.bold5000 import read_r2
from recon_lib.data.download import Remote, fetch_file
from recon_lib.data.stimuli import read_images, read_repeated

FILE = np.random.default_rng(0).bytes(300_000)


def zipped(root, folders, prefix=""):
    """An archive of all files below some folders of `root`."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for folder in folders:
            for path in sorted((root / folder).rglob("*")):
                if path.is_file():
                    archive.write(path, prefix + str(path.relative_to(root)))
    return data.getvalue()


@pytest.fixture
def host(mini_release, monkeypatch):
    """A server with figshare's interface, a bucket's and plain files; `host.log` has requests."""
    raw = mini_release / "ds001499"
    state = SimpleNamespace(files={}, log=[], cut=None, status=None, ranges=True, headers={})
    state.files["/one.bin"] = FILE
    stimuli = zipped(mini_release, ["BOLD5000_Stimuli"])
    state.files["/images.zip"] = stimuli
    articles = {
        fetch.RELEASE_1: {"BOLD5000_Stimuli.zip": stimuli,
                          "BOLD5000_ROIs.zip": zipped(mini_release, ["ROIs"])},
        fetch.RELEASE_2: {"BOLD5000_GLMsingle_ROI_betas.zip":
                          zipped(mini_release, ["BOLD5000_GLMsingle_ROI_betas"])},
    }
    for path in mini_release.glob("CSI*"):
        articles[fetch.RELEASE_2][path.name] = path.read_bytes()
    listed = {}
    bucket = {f"ds001499/{p.relative_to(raw)}": p.read_bytes()
              for p in sorted(raw.rglob("*")) if p.is_file()}
    state.files |= {f"/bucket/{key}": data for key, data in bucket.items()}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def send(self, data, status=200, **headers):
            self.send_response(status)
            for key, value in {"Content-Length": len(data), **headers}.items():
                self.send_header(key.replace("_", "-"), str(value))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self):
            path, _, query = self.path.partition("?")
            asked = self.headers.get("Range")
            state.log.append((path, asked))
            if state.status:
                return self.send(b"", state.status)
            if path in listed:
                return self.send(json.dumps(listed[path]).encode())
            if path == "/bucket":
                return self.send(page_of(query).encode())
            if path not in state.files:
                return self.send(b"", 404)
            data, start = state.files[path], 0
            if asked and state.ranges:
                start = int(asked.removeprefix("bytes=").rstrip("-"))
                if start >= len(data):
                    return self.send(b"", 416)
            if state.cut is not None:  # the line goes dead in the middle
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(data) - start))
                self.end_headers()
                self.wfile.write(data[start : start + state.cut])
                self.close_connection = True
                return None
            self.send(data[start:], 206 if start else 200, **state.headers)

    def page_of(query):
        """A bucket's list, four keys a page."""
        words = dict(word.split("=", 1) for word in query.replace("%2F", "/").split("&"))
        keys = sorted(key for key in bucket if key.startswith(words["prefix"]))
        first = int(words.get("continuation-token", 0))
        rows = "".join(
            f"<Contents><Key>{key}</Key><Size>{len(bucket[key])}</Size>"
            f"<ETag>&quot;{hashlib.md5(bucket[key]).hexdigest()}&quot;</ETag></Contents>"
            for key in keys[first : first + 4]
        )
        more = f"<NextContinuationToken>{first + 4}</NextContinuationToken>"
        name = "http://s3.amazonaws.com/doc/2006-03-01/"
        return (f'<ListBucketResult xmlns="{name}">{rows}{more if first + 4 < len(keys) else ""}'
                "</ListBucketResult>")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    for article, files in articles.items():
        rows = []
        for name, data in files.items():
            state.files[f"/{article}/{name}"] = data
            rows.append({"name": name, "size": len(data), "download_url":
                         f"{state.url}/{article}/{name}",
                         "computed_md5": hashlib.md5(data).hexdigest()})
        listed[f"/api/articles/{article}/files"] = rows
    state.listed, state.bucket = listed, bucket
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setattr(fetch, "FIGSHARE", f"{state.url}/api")
    monkeypatch.setattr(fetch, "OPENNEURO", f"{state.url}/bucket")
    monkeypatch.setattr(fetch, "IMAGES", f"{state.url}/images.zip")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield state
    server.shutdown()
    server.server_close()


def one(host, md5=True, size=True):
    return Remote(f"{host.url}/one.bin", "one.bin", len(FILE) if size else None,
                  hashlib.md5(FILE).hexdigest() if md5 else None)


# One file --------------------------------------------------------------------------------


@pytest.mark.parametrize("md5, size", [(True, True), (False, True), (False, False)])
def test_a_file_comes_whole_and_only_once(host, tmp_path, md5, size):
    for _ in range(2):
        assert fetch_file(one(host, md5, size), tmp_path / "a" / "one.bin").read_bytes() == FILE
    assert [path for path, _ in host.log] == ["/one.bin"]
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["one.bin"]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_download_goes_on_where_it_stopped(host, tmp_path, ranges):
    host.cut = 70_000
    host.ranges = ranges
    if ranges:  # what each try brought is kept
        assert fetch_file(one(host), tmp_path / "one.bin").read_bytes() == FILE
        pieces = [f"bytes={70_000 * i}-" for i in range(1, 5)]
        assert [r for _, r in host.log] == [None, *pieces]
        return
    with pytest.raises(DataError, match="one.bin: the connection broke 4 times.*goes on from"):
        fetch_file(one(host), tmp_path / "one.bin")
    assert not (tmp_path / "one.bin").exists() and (tmp_path / ".one.bin.part").exists()
    host.cut = None  # a host that knows no ranges sends everything again
    assert fetch_file(one(host), tmp_path / "one.bin").read_bytes() == FILE


def test_a_second_run_asks_for_the_rest_only(host, tmp_path, monkeypatch):
    (tmp_path / ".one.bin.part").write_bytes(FILE[:250_000])
    assert fetch_file(one(host), tmp_path / "one.bin").read_bytes() == FILE
    assert host.log == [("/one.bin", "bytes=250000-")]
    (tmp_path / ".two.bin.part").write_bytes(FILE + b"too much")
    two = Remote(f"{host.url}/one.bin", "two.bin", len(FILE))
    assert fetch_file(two, tmp_path / "two.bin").read_bytes() == FILE


def test_a_wrong_checksum_is_thrown_away(host, tmp_path):
    (tmp_path / ".one.bin.part").write_bytes(b"x" * 250_000)  # the start of something else
    with pytest.raises(DataError, match="one.bin: not the published checksum"):
        fetch_file(one(host), tmp_path / "one.bin")
    assert list(tmp_path.iterdir()) == []
    fetch_file(one(host), tmp_path / "one.bin")  # and the next attempt is a fresh one
    (tmp_path / "one.bin").write_bytes(b"damaged later")
    assert fetch_file(one(host), tmp_path / "one.bin").read_bytes() == FILE


def test_a_folder_that_cannot_be_written(host, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="cannot write"):
        fetch_file(one(host), tmp_path / "file" / "one.bin")


def test_a_host_that_packs_what_it_sends(host, tmp_path):
    """Bytes are taken as they come: five that would unpack to millions are refused."""
    bomb = gzip.compress(bytes(50_000_000))
    host.files["/one.bin"], host.headers = bomb, {"Content_Encoding": "gzip"}
    told = Remote(f"{host.url}/one.bin", "one.bin", 5)
    with pytest.raises(DataError, match="one.bin: 127.0.0.1:.* sends more than it told"):
        fetch_file(told, tmp_path / "one.bin")
    assert sum(p.stat().st_size for p in tmp_path.iterdir()) <= 5
    whole = Remote(f"{host.url}/one.bin", "two.bin", len(bomb))
    assert fetch_file(whole, tmp_path / "two.bin").read_bytes() == bomb


def test_a_host_without_end(host, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "LARGEST", 100_000)
    with pytest.raises(DataError, match="sends more than it told"):
        fetch_file(one(host, md5=False, size=False), tmp_path / "one.bin")
    monkeypatch.setattr(download, "LONGEST_LIST", 100_000)
    host.files["/list"], host.headers = gzip.compress(bytes(300_000)), {"Content_Encoding": "gzip"}
    with pytest.raises(download.Refused, match="answers with more than 100000 bytes"):
        download.ask(f"{host.url}/list")


@pytest.mark.parametrize("size", [-5, "-1", "many", None, [], 1e400])
def test_sizes_that_are_none(host, tmp_path, monkeypatch, size):
    rows = host.listed[f"/api/articles/{fetch.RELEASE_1}/files"]
    rows[0]["size"] = size
    with pytest.raises(DataError, match="no list of files that can be read"):
        fetch.fetch(["CSI1"], ["lists"], tmp_path, lambda _: 0)
    host.files["/sized"], host.headers = b"x", {"Content_Length": "-7"}
    with pytest.raises(DataError, match="no size of it that can be read|cannot be reached"):
        download.single(f"{host.url}/sized", "it")
    monkeypatch.setattr(download, "ask", lambda *_, **__: b"[" * 100_000)
    with pytest.raises(DataError, match="no list of files that can be read"):
        download.figshare(host.url, 1)


@pytest.mark.parametrize("name", ["../CSI1_imgnames.txt", "/CSI1_imgnames.txt", "a/../../b",
                                  "C:\\CSI1_imgnames.txt", "..", ""])
def test_names_of_a_host_that_lead_elsewhere(host, tmp_path, monkeypatch, name):
    assert not fetch.is_inside(name) and fetch.is_inside("a/b/c..txt")
    monkeypatch.setattr(fetch, "remote_files", lambda *_: [Remote(f"{host.url}/one.bin", name, 1)])
    with pytest.raises(DataError, match="do not trust it"):
        fetch.fetch(["CSI1"], ["roi-betas"], tmp_path / "in", lambda _: 0)
    assert not host.log and not list(tmp_path.iterdir())


def test_archives_that_are_locked_or_claim_too_much(host, tmp_path, monkeypatch):
    name = "x/Presented_Stimuli/COCO/a.jpg"
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(name, "x" * 100)
    whole = bytearray((tmp_path / "a.zip").read_bytes())
    for place in (whole.index(b"PK\x03\x04") + 6, whole.index(b"PK\x01\x02") + 8):
        whole[place] |= 1  # says that it is encrypted
    host.files["/images.zip"] = bytes(whole)
    with pytest.raises(DataError, match="not a readable archive .*encrypted"):
        fetch.fetch(["CSI1"], ["images"], tmp_path / "out", lambda _: 0)
    monkeypatch.setattr(fetch, "SPARE", 1e18)
    with pytest.raises(DataError, match="choose fewer parts"):
        fetch.unpack(tmp_path / "a.zip", "jpg$", tmp_path / "out")
    assert not list(tmp_path.rglob("*.jpg"))


# Parts -----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:betas and masks share a grid")
def test_what_was_fetched_is_what_the_readers_read(host, mini_release, tmp_path):
    from recon_lib.data.release import load_experiment

    said = []
    assert not [part for part in fetch.PARTS if fetch.is_here(part, "CSI1", tmp_path)]
    fetch.fetch(["CSI1"], ["roi-betas", "images", "lists"], tmp_path, said.append)
    here = {name: [part for part in fetch.PARTS if fetch.is_here(part, name, tmp_path)]
            for name in ("CSI1", "CSI4")}
    assert here == {"CSI1": ["roi-betas", "images", "lists"], "CSI4": ["images"]}
    ours, theirs = load_experiment(tmp_path, "CSI1"), load_experiment(mini_release, "CSI1")
    assert np.array_equal(ours.betas, theirs.betas) and np.array_equal(ours.images, theirs.images)
    assert np.array_equal(ours.session, theirs.session) and np.array_equal(ours.test, theirs.test)
    assert read_repeated(tmp_path) == read_repeated(mini_release)
    assert not list(tmp_path.rglob("CSI4*"))  # one subject was asked for
    for part, line in zip(("roi-betas", "images", "lists"), said, strict=False):
        assert line.split()[0] == part and "GB" in line and fetch.PARTS[part].purpose in line
    before = len(host.log)
    fetch.fetch(["CSI1", "CSI4"], ["roi-betas"], tmp_path, said.append)
    fresh = [path for path, _ in host.log[before:] if "api" not in path]
    assert fresh == [f"/{fetch.RELEASE_2}/CSI4_imgnames.txt"]  # the archive was kept
    (tmp_path / "BOLD5000_Stimuli" / "Stimuli_Presentation_Lists" / "CSI1").rename(tmp_path / "x")
    assert read_r2(tmp_path, "CSI4").stimuli == read_r2(mini_release, "CSI4").stimuli


@pytest.mark.filterwarnings("ignore:betas and masks share a grid")
def test_whole_brain_masks_and_runs(host, mini_release, tmp_path):
    from recon_lib.data import bids, volumes
    from recon_lib.data.bold5000 import read_r1

    parts = ["brain-betas", "masks", "runs", "roi-times", "lists"]
    fetch.fetch(["CSI2"], parts, tmp_path, lambda _: 0)
    assert all(fetch.is_here(part, "CSI2", tmp_path) for part in parts)
    for read in (volumes.read_r2_volumes, read_r1):
        assert np.array_equal(read(tmp_path, "CSI2").values, read(mini_release, "CSI2").values)
    ours, theirs = (next(bids.iter_runs(root, "CSI2")) for root in (tmp_path, mini_release))
    assert np.array_equal(ours.bold, theirs.bold) and ours.names == theirs.names
    assert bids.read_confounds(tmp_path, "CSI2", 2, 1).shape == (194, 6)
    # the lists of a bucket come in pages, and every file is checked against its tag
    tokens = [path for path, _ in host.log if path == "/bucket"]
    assert len(tokens) > 3
    name = next(key for key in host.bucket if key.endswith("mask-LHPPA.nii.gz") and "CSI2" in key)
    host.files[f"/bucket/{name}"] = host.files[f"/bucket/{name}"][::-1]
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match="mask-LHPPA.nii.gz: not the published checksum"):
        fetch.fetch(["CSI2"], ["masks"], tmp_path, lambda _: 0)


def test_pictures_can_be_read(host, mini_release, tmp_path):
    fetch.fetch(["CSI4"], ["images"], tmp_path, lambda _: 0)
    names = read_r2(mini_release, "CSI4").stimuli
    assert np.array_equal(read_images(tmp_path, names, 64), read_images(mini_release, names, 64))


# Refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize("part", fetch.PARTS)
def test_a_host_that_refuses_sends_you_to_a_browser(host, tmp_path, part):
    host.status = 403
    with pytest.raises(DataError) as error:
        fetch.fetch(["CSI1"], [part], tmp_path, lambda _: 0)
    message = str(error.value)
    assert "127.0.0.1" in message and "refuses (status 403)" in message and "\n" not in message
    assert f"open {fetch.PARTS[part].page}" in message and str(tmp_path) in message
    assert f"({fetch.PARTS[part].size()}) and put them" in message
    assert not set("\\{|") & set(message.replace(str(tmp_path), ""))  # a pattern is no file name


def test_a_host_that_refuses_the_file_itself_or_is_not_there(host, tmp_path, monkeypatch):
    del host.files[f"/{fetch.RELEASE_1}/BOLD5000_ROIs.zip"]
    told = r"roi-times: .*status 404.*fetch BOLD5000_ROIs.zip \(4.21 GB\) and put"
    with pytest.raises(DataError, match=told):
        fetch.fetch(["CSI1"], ["roi-times"], tmp_path, lambda _: 0)
    monkeypatch.setattr(fetch, "FIGSHARE", "http://127.0.0.1:9/api")
    with pytest.raises(DataError, match="lists: .*cannot be reached .*by hand"):
        fetch.fetch(["CSI1"], ["lists"], tmp_path, lambda _: 0)
    monkeypatch.setattr(fetch, "FIGSHARE", f"{host.url}/one.bin?")
    with pytest.raises(DataError, match="gives no list of files that can be read"):
        fetch.fetch(["CSI1"], ["lists"], tmp_path, lambda _: 0)


def test_a_part_that_is_gone(host, tmp_path):
    rows = host.listed[f"/api/articles/{fetch.RELEASE_1}/files"]
    rows[:] = [row for row in rows if "ROIs" not in row["name"]]
    with pytest.raises(DataError, match="no file like BOLD5000_ROIs.*by hand"):
        fetch.fetch(["CSI1"], ["roi-times"], tmp_path, lambda _: 0)


def test_too_little_space_is_noticed_first(host, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda _: SimpleNamespace(free=1.0e9 + 1000))
    with pytest.raises(DataError, match=r"GB are needed and 1 GB should stay free.*has 1.0 GB"):
        fetch.fetch(["CSI1"], ["roi-betas"], tmp_path / "new", lambda _: 0)
    assert not (tmp_path / "new").exists()


def test_an_archive_that_is_none_or_not_to_be_trusted(host, tmp_path):
    host.files["/images.zip"] = b"<html>Please log in</html>"
    with pytest.raises(DataError, match="not a readable archive"):
        fetch.fetch(["CSI1"], ["images"], tmp_path / "a", lambda _: 0)
    evil = io.BytesIO()
    with zipfile.ZipFile(evil, "w") as archive:
        archive.writestr("../../Presented_Stimuli/evil.jpg", "x")
    host.files["/images.zip"] = evil.getvalue()
    with pytest.raises(DataError, match="do not trust it"):
        fetch.fetch(["CSI1"], ["images"], tmp_path / "b", lambda _: 0)
    assert not list(tmp_path.rglob("evil.jpg"))


@pytest.mark.parametrize("arguments, message", [
    ({"subjects": ["CSI5"]}, "found CSI5; expected some of CSI1"),
    ({"parts": ["betas"]}, "found betas; expected some of roi-betas"),
    ({"parts": []}, "found nothing"),
])
def test_unknown_names(tmp_path, arguments, message):
    with pytest.raises(DataError, match=message):
        fetch.fetch(out=tmp_path, **arguments)


def test_from_the_shell(host, tmp_path, monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["recon_lib", *arguments])
        with pytest.raises(SystemExit) as end:
            shell.main()
        return end.value.code or 0, *capsys.readouterr()

    out = str(tmp_path / "data")
    words = "fetch bold5000 --subject CSI1 --parts roi-betas images --out".split()
    with alone_in(out):
        code, _, err = run(*words, out)
    assert code == 2 and "another command is fetching into" in err
    code, said, _ = run(*words, out)
    assert code == 0 and "roi-betas" in said and "images" in said
    assert list((tmp_path / "data").rglob("Presented_Stimuli"))
    assert list((tmp_path / "data").rglob("CSI1_*LHPPA.npy"))
    code, _, err = run("fetch", "things", "--out", out)
    assert code == 2 and "things" in err and "bold5000" in err
