#!/usr/bin/env python3
"""Reads a Vellum repository in a folder: an independent reader, written from FORMAT.md and sharing no line with the program.

    read_repository.py REPOSITORY list
    read_repository.py REPOSITORY restore IMAGE[@SNAPSHOT] FILE

The key: --password-file FILE or --key-file FILE. It holds everything in memory that an honest repository needs, and is no judge of hostile ones.
"""

import argparse
import json
import pathlib
import sys

import lz4.block
import zstandard
from argon2.low_level import Type, hash_secret_raw
from blake3 import blake3
from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_decrypt as aead_open
from nacl.exceptions import CryptoError

HEAD_LEN, PAGE_SPAN = 8, 1024
KINDS = {"pack": 1, "index": 2, "maps": 3, "record": 4, "index-parts": 5}


def need(condition, what):
    if not condition:
        raise ValueError(what)


class Reader:
    """Bytes, read from the front."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        need(self.at + count <= len(self.data), "truncated")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, count):
        return int.from_bytes(self.take(count), "little")

    def varint(self):
        value = shift = 0
        while True:
            byte = self.number(1)
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def presence(self, span):
        """The offsets that are there, of `span`."""
        if self.number(1) == 0:
            return range(span)
        bitmap = self.take((span + 7) // 8)
        return [at for at in range(span) if bitmap[at // 8] >> (at % 8) & 1]


def decompressed(codec, data, plain_len):
    zstd, lz = zstandard.ZstdDecompressor(), lz4.block
    plain = [lambda: data, lambda: lz.decompress(data, plain_len), lambda: zstd.decompress(data, plain_len)][codec]()
    need(len(plain) == plain_len, "plain length")
    return plain


class Repository:
    def __init__(self, path, password=None, key_file=None):
        self.path = pathlib.Path(path)
        self.file = self.first("vellum.repository", self.described)
        need(self.file["format"] == 1, "a newer format")
        self.chunk_len = self.file["chunk_len"]
        self.master = self.unlock(password, key_file) if self.file["encrypted"] else None

    def first(self, name, check):
        """What `check` makes of an object; of its copy if the object is not there, or not what it must be."""
        try:
            return check((self.path / name).read_bytes())
        except (OSError, ValueError) as error:
            try:
                return check((self.path / "copies" / name).read_bytes())
            except (OSError, ValueError):
                raise ValueError(f"{name}: {error}") from None

    @staticmethod
    def described(stored):
        file = json.loads(stored)
        need(isinstance(file, dict) and {"format", "id", "encrypted", "chunk_len"} <= file.keys(), "it does not say what it is")
        need(len(bytes.fromhex(file["id"])) == 16, "its identity is none")
        return file

    def names(self, folder):
        """The objects of a folder, also those of which only the copy is left."""
        own, copies = self.path / folder, self.path / "copies" / folder
        return sorted({path.name for place in (own, copies) for path in place.glob("[!.]*")})

    def unlock(self, password, key_file):
        for name in self.names("keys"):
            try:
                key = json.loads(self.named("keys/" + name, name))
            except ValueError:
                continue  # Another one may open.
            salt = bytes.fromhex(key["salt"])
            if key["kind"] == "password" and password is not None:
                cost = key["argon2id"]
                wrapping = hash_secret_raw(password, salt, cost["passes"], cost["memory_kib"], cost["lanes"], 32, Type.ID)
            elif key["kind"] == "file" and key_file is not None:
                own = bytes.fromhex(key_file.decode().strip().removeprefix("vellum-key-1-"))
                wrapping = blake3(own + salt, derive_key_context="vellum 2026-11 repository key file v1").digest()
            else:
                continue
            statement = f"vellum 2026-11 repository key v1\nformat 1\nid {self.file['id']}\nencrypted true\nchunk_len {self.chunk_len}\n"
            statement += f"{key['kind']}\n{key['time_ms']}\n{key['label']}"
            if "role" in key:
                statement += f"\nrole {key['role']}"
            try:
                return aead_open(bytes.fromhex(key["wrapped"]), statement.encode(), bytes.fromhex(key["nonce"]), wrapping)
            except CryptoError:
                pass
        raise ValueError("no key opens with that")

    def head(self, kind):
        return b"VlmR" + bytes([1, KINDS[kind], self.master is not None, 0])

    def open_part(self, kind, part):
        nonce, rest = part[:24], part[24:]
        additional = self.head(kind) + bytes.fromhex(self.file["id"])
        if self.master is None:
            body, tag = rest[:-16], rest[-16:]
            context = "vellum 2026-11 repository checksum v1"
            need(blake3(additional + nonce + body, derive_key_context=context).digest()[:16] == tag, f"{kind}: checksum")
            return body
        key = blake3(self.master, derive_key_context=f"vellum 2026-11 repository {kind} v1").digest()
        try:
            return aead_open(rest, additional, nonce, key)
        except CryptoError:
            raise ValueError(f"{kind}: its seal is broken") from None

    def open_blob(self, kind, part):
        envelope = Reader(self.open_part(kind, part))
        codec, plain_len, compressed_len = envelope.number(1), envelope.number(4), envelope.number(4)
        return decompressed(codec, envelope.take(compressed_len), plain_len)

    def named(self, name, ident):
        """The bytes of an object whose name is their hash."""
        def check(data):
            need(blake3(data).hexdigest() == ident, "not what its name says")
            return data
        return self.first(name, check)

    def index_parts(self, ident):
        """What an index object says, in parts: one in those of early repositories."""
        data = self.named("index/" + ident, ident)
        if data[:HEAD_LEN] == self.head("index"):
            return [self.open_blob("index", data[HEAD_LEN:])]
        need(data[:HEAD_LEN] == self.head("index-parts"), f"index/{ident}: not what its name says")
        end, parts = HEAD_LEN + 44, []
        count = int.from_bytes(self.open_part("index-parts", data[HEAD_LEN:end]), "little")
        table, end = self.open_part("index-parts", data[end : end + 40 + 4 * count]), end + 40 + 4 * count
        for at in range(0, 4 * count, 4):
            length = int.from_bytes(table[at : at + 4], "little")
            parts.append(self.open_blob("index-parts", data[end : end + length]))
            end += length
        return parts

    def stored(self, kind, name, ident):
        data = self.named(name, ident)
        need(data[:HEAD_LEN] == self.head(kind), name + ": not what its name says")
        return data

    def fold(self):
        records = {}
        for name in self.names("journal"):
            record = json.loads(self.open_blob("record", self.stored("record", "journal/" + name, name.split("-")[1])[HEAD_LEN:]))
            need(record["version"] == 1 and record["counter"] == int(name.split("-")[0], 16), "journal/" + name)
            records[name] = record
        last, status = None, dict.fromkeys(records, "undecided")
        while status != last:
            last, status = status, {name: self.status(name, records, status) for name in records}
        counting = [records[name] for name in records if status[name] == "counts"]
        shown = counting + [records[name] for name in records if status[name] == "undecided"]

        def stamp(record, value):
            own = value.get("stamp") or record
            return own["counter"], own["session"]

        forgotten = {(said["id"], said["session"]) for record in counting for said in record.get("forgotten", [])}
        sweeps = [sweep for record in counting for sweep in record.get("sweeps", [])]
        swept = {(said["id"], said["session"]) for sweep in sweeps for said in sweep["contents"]}
        self.points, self.contents = {}, {}
        for nth, record in enumerate(shown):
            for point in record.get("points", []):
                if (point["id"], stamp(record, point)[1]) not in forgotten:
                    entry = (nth < len(counting), stamp(record, point)), point
                    self.points[point["id"]] = max(self.points.get(point["id"], entry), entry, key=lambda entry: entry[0])
            for content in record.get("contents", []):
                if (content["id"], stamp(record, content)[1]) not in swept:
                    self.contents.setdefault(content["id"], []).append((stamp(record, content), content))
        words = [(stamp(record, words), words) for record in counting for words in record.get("described", [])]
        for at, words in sorted(words, key=lambda entry: entry[0]):
            said, point = self.points.get(words["point"], ((True, at), None))
            if said < (True, at):
                snapshot = point.get("snapshot") and {**point["snapshot"], "name": words["snapshot"]}
                point = {**words, **{key: point[key] for key in ("id", "image", "content", "len")}, "snapshot": snapshot}
                self.points[words["point"]] = said, point
        counter = lambda said, point: max(said[1][0], point.get("returned") or 0)
        self.ages = {ident: (point.get("snapshot") or {}).get("serial") or counter(said, point) for ident, (said, point) in self.points.items()}
        self.points = {ident: point for ident, (_, point) in self.points.items()}
        marks = [mark for record in shown for mark in record.get("marks", []) if mark["id"] not in {s["mark"] for s in sweeps}]
        condemned = {(said["id"], said["session"]) for mark in marks for said in mark["contents"]}
        said = [((ident, at[1]) in condemned, ident, content) for ident, all in self.contents.items() for at, content in all]
        self.contents, known = {}, -1
        for needs_condemned in (False, True):
            while known < (known := len(self.contents)):
                for is_condemned, ident, content in said:
                    leads = content.get("parent") is None or content["parent"] in self.contents
                    if leads and is_condemned <= needs_condemned:
                        self.contents.setdefault(ident, content)
            known = -1
        self.gone = {name for sweep in sweeps for name in sweep["objects"]}
        self.damaged = {note["object"] for record in shown for note in record.get("damaged", [])}
        self.indexes = {index for record in shown for index in record.get("indexes", []) if "index/" + index not in self.gone}

    @staticmethod
    def status(name, records, status):
        short = name.split("-")[1][:16]
        for other, record in records.items():
            if other != name and status[other] in ("counts", "replaced"):
                if name in record.get("replaces", []) or short in (record.get("past") or {}).get("ids", []):
                    return "replaced"
        session = records[name]["session"]
        fences = [(status[by], f) for by, record in records.items() for f in record.get("fenced", []) if f["session"] == session]
        decided = [fence for by, fence in fences if by == "counts" and fence["decided"]]
        others = [fence for by, fence in fences if by in ("counts", "undecided")]
        is_counted = all(name in fence["counted"] for fence in decided or others)
        return "counts" if is_counted else "void" if decided else "undecided"

    def load_indexes(self):
        self.hashes, self.frames, doubtful = {}, {}, {}
        for reader in (Reader(part) for ident in sorted(self.indexes) for part in self.index_parts(ident)):
            need(reader.number(1) == 1, "version of an index")
            segments = []
            for _ in range(reader.varint()):
                segment, end, first = reader.take(16), reader.varint(), reader.varint()
                segments.append(segment)
                for at in reader.presence(end - first):
                    self.hashes[segment, first + at] = reader.take(32)
            for _ in range(reader.varint()):
                pack, _, frame_count, last_end = reader.take(32).hex(), reader.varint(), reader.varint(), 0
                for _ in range(frame_count):
                    segment, first, span = segments[reader.varint()], reader.varint(), reader.varint()
                    ordinals = [first + at for at in reader.presence(span)]
                    _, offset, length = reader.number(1), last_end + reader.varint(), reader.varint()
                    last_end = offset + length
                    if (name := f"packs/{pack[:2]}/{pack}") not in self.gone:
                        frames = doubtful if name in self.damaged else self.frames
                        frames.update(((segment, ordinal), (pack, offset, length)) for ordinal in ordinals)
            need(reader.at == len(reader.data), "bytes are left over")
        self.frames = doubtful | self.frames

    def frame(self, place):
        """The chunks of a frame, by address, each held against its name."""
        pack, offset, length = place
        with open(self.path / "packs" / pack[:2] / pack, "rb") as file:
            file.seek(offset)
            body = Reader(self.open_part("pack", file.read(length)))
        need(body.number(1) == 1, "version of a frame")
        codec, segment, first, span = body.number(1), body.take(16), body.varint(), body.varint()
        ordinals = [first + at for at in body.presence(span)]
        plain = decompressed(codec, body.take(len(body.data) - body.at), len(ordinals) * self.chunk_len)
        chunks = {(segment, at): plain[nth * self.chunk_len :][: self.chunk_len] for nth, at in enumerate(ordinals)}
        for address, chunk in chunks.items():
            need(blake3(chunk).digest() == self.hashes[address], f"packs/{pack}: chunk {address[1]} of {segment.hex()}")
        return chunks

    def layer(self, content):
        """What a content says itself: position -> address, or None for zero."""
        slots = {}
        for part in content["parts"]:
            ident, (offset, length) = part["object"].removeprefix("maps/"), part["range"]
            blob = Reader(self.open_blob("maps", self.stored("maps", "maps/" + ident, ident)[offset : offset + length]))
            need(blob.number(1) == 1 and blob.take(16).hex() == content["id"], "another content's map")
            parent, visible = blob.take(16).hex() if blob.number(1) else None, blob.number(8)
            need(parent == content.get("parent") and (parent is None or visible == content["parent_visible"]), "a map over another parent")
            segments = [blob.take(16) for _ in range(blob.varint())]
            indexes = [-1]
            for _ in range(blob.varint()):
                indexes.append(indexes[-1] + 1 + blob.varint())
                page(Reader(blob.take(blob.varint())), indexes[-1], segments, slots)
            need([indexes[1], indexes[-1]] == part["pages"], "other pages than the record says")
        return slots

    def resolved(self, ident):
        """What a content shows: position -> address. Its parents are read first, from the root on."""
        chain, shown = [], {}
        while ident is not None:
            chain.append(self.contents[ident])
            ident = chain[-1].get("parent")
        for content in reversed(chain):
            shown = {at: slot for at, slot in shown.items() if at < content["parent_visible"]} | self.layer(content)
        return shown

    def restore(self, point, out):
        out.truncate(point["len"])
        chunks = {}
        for at, address in sorted(self.resolved(point["content"]).items()):
            if address is not None:
                chunks = chunks if address in chunks else self.frame(self.frames[address])
                out.seek(at * self.chunk_len)
                out.write(chunks[address][: point["len"] - at * self.chunk_len])


def page(reader, index, segments, slots):
    """Adds what a page says: see the table in core/src/page.rs."""
    need(reader.number(1) == 1, "version of a page")
    position, next_id = index * PAGE_SPAN, 0
    for _ in range(reader.varint()):
        head, length = reader.varint(), reader.varint() + 1
        position += head >> 1
        if head & 1:
            folded = reader.varint()
            next_id += folded >> 1 if folded & 1 == 0 else -(folded >> 1) - 1
            for nth in range(length):
                slots[position + nth] = (segments[next_id >> 32], (next_id & 0xFFFFFFFF) + nth)
            next_id += length
        else:
            slots.update((position + nth, None) for nth in range(length))
        position += length


def title(point):
    return point["name"] + ("@" + point["snapshot"]["name"] if point.get("snapshot") else "")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, more in [("repository", {}), ("verb", {"choices": ["list", "restore"]}), ("point", {"nargs": "?"}), ("file", {"nargs": "?"})]:
        parser.add_argument(name, **more)
    for name in ["--password-file", "--key-file"]:
        parser.add_argument(name, type=lambda path: pathlib.Path(path).read_bytes().rstrip(b"\n"))
    words = parser.parse_args()
    repository = Repository(words.repository, words.password_file, words.key_file)
    repository.fold()
    if words.verb == "list":
        for point in sorted(repository.points.values(), key=lambda point: (title(point), point["time_ms"])):
            print(point["id"], title(point), point["len"])
        return
    found = [point for point in repository.points.values() if words.point in (title(point), point["id"])]
    need(found, f"there is no {words.point}")
    repository.load_indexes()
    with open(words.file, "xb") as out:
        repository.restore(max(found, key=lambda point: repository.ages[point["id"]]), out)


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"read_repository: {error}")
