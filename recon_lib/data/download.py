"""Ask hosts of data what they have, and fetch files in a way that survives a broken connection."""

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import pooch
import requests
import urllib3
from tqdm import tqdm

from recon_lib.common.errors import DataError

TIMEOUT = (15, 60)  # seconds to connect, and between two pieces
PIECE = 2**16  # bytes: what a broken connection can lose
TRIES = 4  # without any progress
LONGEST_LIST = 50_000_000  # bytes of an answer that lists files
LARGEST = 100_000_000_000  # bytes of a file whose size the host does not tell


class Refused(DataError):
    """A host refuses, or cannot be reached: a person with a browser may do better."""


@dataclass
class Remote:
    """A file on a host."""

    url: str
    name: str  # its path below the place where the host keeps the data set
    size: int | None = None  # bytes, where the host says so
    md5: str | None = None  # checksum, where one is published


def ask(url, **parameters):
    """The bytes that a host answers; `Refused` if none, or far more than a list of files has."""
    body = b""
    try:
        with requests.get(url, params=parameters or None, timeout=TIMEOUT, stream=True) as answer:
            answer.raise_for_status()
            for piece in answer.iter_content(PIECE):
                body += piece
                if len(body) > LONGEST_LIST:
                    raise Refused(f"{host_of(url)} answers with more than {LONGEST_LIST} bytes")
    except requests.RequestException as error:
        raise refused(url, error) from error
    return body


def host_of(url):
    """The name of the host in an address."""
    return url.split("/")[2]


def refused(url, error):
    """The error for a host that does not give what was asked for."""
    status = getattr(error.response, "status_code", None)
    return Refused(f"{host_of(url)} refuses (status {status})" if status else
                   f"{host_of(url)} cannot be reached ({type(error).__name__})")


def size_of(text):
    """A number of bytes as a host tells it; raises ValueError if it is none."""
    if not re.fullmatch(r"\d{1,18}", str(text)):
        raise ValueError(f"{text} is no number of bytes")
    return int(text)


def figshare(api, article):
    """Files of a figshare article: names, sizes and MD5 sums as published."""
    answer = ask(f"{api}/articles/{article}/files", page_size=1000)
    try:
        return [Remote(file["download_url"], file["name"], size_of(file["size"]),
                       file.get("computed_md5") or file.get("supplied_md5") or None)
                for file in json.loads(answer)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{host_of(api)} gives no list of files that can be read") from error


def bucket(address, prefix):
    """Files of a public S3 bucket below `prefix`; small files have an MD5 sum as their tag."""
    found, token = [], {}
    while True:
        answer = ask(address, **{"list-type": "2", "prefix": prefix, **token})
        try:
            page = ET.fromstring(answer)
            for item in page.iterfind("{*}Contents"):
                key, size = item.findtext("{*}Key"), size_of(item.findtext("{*}Size"))
                tag = (item.findtext("{*}ETag") or "").strip('"')
                md5 = tag if len(tag) == 32 and "-" not in tag else None
                found.append(Remote(f"{address}/{key}", key, size, md5))
        except (ET.ParseError, ValueError, TypeError) as error:
            raise DataError(f"{address} gives no list of files that can be read") from error
        following = page.findtext("{*}NextContinuationToken")
        if not following:
            return found
        token = {"continuation-token": following}


def single(url, name):
    """One file at a known address; its size, where the host tells."""
    try:
        with requests.get(url, stream=True, timeout=TIMEOUT) as answer:
            answer.raise_for_status()
            size = answer.headers.get("Content-Length")
            return Remote(url, name, size_of(size) if size else None)
    except requests.RequestException as error:
        raise refused(url, error) from error
    except ValueError as error:
        raise DataError(f"{host_of(url)} gives no size of {name} that can be read") from error


class Resume:
    """A downloader for pooch that keeps what it has in `part`, to go on from there next time."""

    def __init__(self, part, remote):
        self.part, self.remote = Path(part), remote

    def __call__(self, url, output_file, pooch_object):
        most, tries = self.have(), TRIES
        while tries:
            reason = "the file is shorter than the host said"
            try:
                if self.attempt(url):
                    self.part.replace(output_file)
                    return
            except requests.HTTPError as error:
                raise refused(url, error) from error
            except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
                reason = type(error).__name__
            tries = TRIES if self.have() > most else tries - 1
            most = max(most, self.have())
        raise DataError(
            f"{self.remote.name}: the connection broke {TRIES} times ({reason}); run the same "
            f"command again, it goes on from {self.have() / 1e6:.1f} MB")

    def have(self):
        """Bytes that are here already."""
        return self.part.stat().st_size if self.part.exists() else 0

    def attempt(self, url):
        """Fetch what is missing; True when the file is whole, as far as the host tells."""
        have = self.have()
        if self.remote.size is not None and have > self.remote.size:
            self.part.unlink()
            have = 0
        if have and have == self.remote.size:
            return True
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
            if answer.status_code == 416 and have:  # nothing of the kind: start over
                self.part.unlink()
                return self.attempt(url)
            answer.raise_for_status()
            start = have if answer.status_code == 206 else 0  # 200: the host sends all of it
            room = (LARGEST if self.remote.size is None else self.remote.size) - start
            with open(self.part, "ab" if start else "wb") as file, tqdm(
                total=self.remote.size, initial=start, unit="B", unit_scale=True,
                desc=Path(self.remote.name).name, disable=None) as bar:
                for piece in answer.raw.stream(PIECE, decode_content=False):
                    room -= len(piece)
                    if room < 0:
                        raise DataError(f"{self.remote.name}: {host_of(url)} sends more than it "
                                        "told; fetch it with a browser, and look at it")
                    file.write(piece)
                    bar.update(len(piece))
        return self.remote.size is None or self.have() == self.remote.size


def fetch_file(remote, target):
    """Fetch a file to `target`, checked against its published checksum; skip it when it is there.

    A host that refuses, a connection that keeps breaking and another checksum are a `DataError`.
    """
    target = Path(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if remote.md5 is None and target.exists() and target.stat().st_size != remote.size:
            if remote.size is not None:
                target.unlink()  # the host has another version
        pooch.get_logger().setLevel("WARNING")
        pooch.retrieve(
            remote.url, None if remote.md5 is None else f"md5:{remote.md5}", target.name,
            target.parent, downloader=Resume(target.with_name(f".{target.name}.part"), remote))
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"cannot write {target}: {error.strerror}; choose another --out") from error
    except ValueError as error:  # pooch: hash mismatch
        raise DataError(
            f"{target.name}: not the published checksum, so it was thrown away; run the same "
            "command again, and if that does not help fetch it with a browser") from error
    return target
