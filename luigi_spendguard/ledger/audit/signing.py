"""The audit's key, which keys are trusted, and the head of the chain: files beside the admin token.

None of them is in the database, so that who can write that alone cannot seal what was changed in it, nor take
away its newest blocks unseen. Keys are Ed25519; `cryptography` is loaded where one is used.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from luigi_spendguard.errors import LedgerError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

#: Public keys by their ids.
PublicKeys = Mapping[str, "Ed25519PublicKey"]
_END = "-----END PUBLIC KEY-----\n"


class AuditStopped(LedgerError):
    """Nothing is sealed, as the chain in the database is not the one that is known here, or its key fails."""


@dataclass(frozen=True)
class Head:
    """The newest block that is known outside of the database."""

    ledger: str
    number: int
    hash: str


class Signer:
    """A private key, with the id that its blocks name it by."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.key_id = key_id(key.public_key())

    def sign(self, text: str) -> str:
        """Return the signature of a text, hexadecimal."""
        return self._key.sign(text.encode()).hex()


def key_id(key: Ed25519PublicKey) -> str:
    """Return what a public key is called: the beginning of its hash."""
    return sha256(key.public_bytes_raw()).hexdigest()[:16]


def is_signed(text: str, signature: str, key: Ed25519PublicKey) -> bool:
    """Return whether a text was signed with the private part of that key."""
    from cryptography.exceptions import InvalidSignature

    try:
        signed = bytes.fromhex(signature)
        key.verify(signed, text.encode())
    except (InvalidSignature, ValueError):
        return False
    return signed.hex() == signature  # Capitals, or blanks, say the same, and were not written.


def public_keys(path: Path) -> Mapping[str, Ed25519PublicKey]:
    """Return the public keys in a file (PEM, one after the other), by their ids. Raises AuditStopped."""
    try:
        text = path.read_text("ascii")
    except OSError as error:
        raise AuditStopped(f"the audit's public keys {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise AuditStopped(f"{path} has something else in it than public keys (PEM)") from None
    if "PRIVATE KEY-----" in text:
        raise AuditStopped(
            f"{path} is a private key, which nobody else may have: name the file with its public part, "
            f"{KeyFiles(path).trusted_file}"
        )
    return public_keys_of(text, str(path))


def public_keys_of(text: str, where: str) -> Mapping[str, Ed25519PublicKey]:
    """Return the public keys in a text (PEM, one after the other), by their ids. Raises AuditStopped."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        keys = [load_pem_public_key((part + _END).encode()) for part in text.split(_END)[:-1]]
    except (ValueError, UnsupportedAlgorithm):
        raise AuditStopped(f"{where} has something else in it than public keys (PEM)") from None
    if not keys:
        raise AuditStopped(f"there is no public key (PEM) in {where}")
    return {key_id(key): key for key in keys if isinstance(key, Ed25519PublicKey)}


@dataclass(frozen=True)
class KeyFiles:
    """The files beside the admin token: `key` is the private key, the others are named after it."""

    key: Path

    @property
    def trusted_file(self) -> Path:
        """The public keys whose blocks are believed: of this key, and of those that it has replaced."""
        return self.key.with_name(self.key.name + ".public")

    @property
    def head_file(self) -> Path:
        """The newest block that was sealed here."""
        return self.key.with_name(self.key.name + ".head")

    def signer(self) -> Signer:
        """Return the private key, made now where there is none. Raises AuditStopped."""
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            if not self.key.exists():
                self._make()
            mode = stat.S_IMODE(self.key.stat().st_mode)
            key = load_pem_private_key(self.key.read_bytes(), None)
        except OSError as error:
            raise AuditStopped(
                f"the audit's key {self.key} cannot be read or made: {error.strerror}"
            ) from None
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key, mode = None, 0
        if not isinstance(key, Ed25519PrivateKey):
            raise AuditStopped(f"{self.key} is no Ed25519 key (PEM) without a password")
        if mode & 0o077:
            raise AuditStopped(f"others can read the audit's key: `chmod 600 {self.key}`")
        self._trust(key.public_key())
        return Signer(key)

    def trusted(self) -> Mapping[str, Ed25519PublicKey]:
        """Return the public keys whose blocks are believed; none where no key was made here yet."""
        return public_keys(self.trusted_file) if self.trusted_file.exists() else {}

    def replace(self) -> str:
        """Make another key; blocks of the one before go on being believed. Returns the new one's id.

        Raises AuditStopped.
        """
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        if self.key.exists():
            self.signer()  # Its public part is to be kept.
        made = Ed25519PrivateKey.generate()
        try:
            self.key.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._trust(made.public_key())
            _write(self.key, _private_pem(made))
        except OSError as error:
            raise AuditStopped(f"the audit's key {self.key} cannot be made: {error.strerror}") from None
        return key_id(made.public_key())

    def _make(self) -> None:
        """Make the key whole, unless another process has."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        self.key.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with suppress(FileExistsError):
            _write(self.key, _private_pem(Ed25519PrivateKey.generate()), is_new=True)

    def _trust(self, key: Ed25519PublicKey) -> None:
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        kept = self.trusted_file.read_bytes() if self.trusted_file.exists() else b""
        if pem not in kept:
            _write(self.trusted_file, kept + pem)

    def head(self) -> Head | None:
        """Return the newest block that is known here, None where there is none. Raises AuditStopped."""
        try:
            kept = json.loads(self.head_file.read_text("utf-8"))
            return Head(str(kept["ledger"]), int(kept["number"]), str(kept["hash"]))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise AuditStopped(f"{self.head_file} cannot be read: {error.strerror}") from None
        except (ValueError, KeyError, TypeError):
            raise AuditStopped(
                f"{self.head_file} does not say which block of the audit was the last: look with `spendguard "
                "audit verify` whether the books are right, then let `spendguard audit accept` write it anew"
            ) from None

    def keep_head(self, head: Head, *, accepted: bool = False) -> None:
        """Remember the newest block; `accepted`: also where a later one is known."""
        try:
            known = None if accepted else self.head()
            if known is None or known.number < head.number:
                _write(self.head_file, json.dumps(asdict(head)).encode() + b"\n")
        except OSError as error:
            raise AuditStopped(f"{self.head_file} cannot be written: {error.strerror}") from None


def _private_pem(key: Ed25519PrivateKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write(path: Path, content: bytes, *, is_new: bool = False) -> None:
    """Write a file whole or not at all, mode 0600. Raises OSError; FileExistsError for one that `is_new`."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            os.link(name, path)
        else:
            os.replace(name, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)
