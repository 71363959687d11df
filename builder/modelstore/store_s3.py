"""A store of models in an S3 bucket, through boto3, which finds keys, region and endpoint as it always does.

That is: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL_S3 for a server that is not Amazon's, or
~/.aws/config. Nothing of it is kept or shown.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

from builder.errors import FetchError, HostError, InputError, Problem
from builder.modelstore.manifest import LARGEST
from builder.modelstore.store import Held

_BLOCK = 1 << 20


class S3Store:
    """A store in a bucket, below a prefix. Nothing locks a bucket: collect when nobody publishes."""

    def __init__(self, client: Any, bucket: str, prefix: str) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""

    @classmethod
    def open(cls, bucket: str, prefix: str) -> S3Store:
        """Return the store of a bucket. Raises HostError without boto3, InputError for a bucket that cannot be had."""
        try:
            import boto3  # noqa: PLC0415 - an optional dependency
            import botocore.exceptions  # noqa: PLC0415
        except ImportError as error:
            raise HostError(
                "S3 needs boto3", hint="apt-get install python3-boto3, or pip install 'pibuild[s3]'"
            ) from error
        try:
            client = boto3.client("s3")
            client.head_bucket(Bucket=bucket)
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
            hint = "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL_S3; the bucket must be there"
            raise InputError(Problem(message=f"s3://{bucket}: {error}", hint=hint)) from error
        return cls(client, bucket, prefix)

    @property
    def shown(self) -> str:
        """Bucket and prefix."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def held(self, prefix: str) -> dict[str, Held]:
        """Return the objects below the prefix."""
        pages = self._client.get_paginator("list_objects_v2")
        found = {}
        with self._failures():
            for page in pages.paginate(Bucket=self._bucket, Prefix=f"{self._prefix}{prefix}/"):
                for each in page.get("Contents", []):
                    name = each["Key"].removeprefix(self._prefix)
                    found[name] = Held(name=name, size=each["Size"], written=each["LastModified"].timestamp())
        return found

    def read(self, name: str) -> bytes | None:
        """Return a small object's content; of one that is larger than a manifest, a part."""
        try:
            return b"".join(itertools.islice(self.blocks(name), LARGEST // _BLOCK + 1))
        except FileNotFoundError:
            return None

    def blocks(self, name: str) -> Iterator[bytes]:
        """Yield an object's content."""
        with self._failures():
            try:
                answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name)
            except self._client.exceptions.NoSuchKey:
                raise FileNotFoundError(name) from None
            yield from answer["Body"].iter_chunks(_BLOCK)

    def put(self, name: str, content: bytes) -> None:
        """Write an object; S3 shows it when it is whole."""
        with self._failures():
            self._client.put_object(Bucket=self._bucket, Key=self._prefix + name, Body=content)

    def create(self, name: str, content: bytes) -> bool:
        """Write an object with `If-None-Match: *`, which servers since 2024 know and older ones leave out."""
        import botocore.exceptions  # noqa: PLC0415

        if self.read(name) is not None:
            return False
        with self._failures():
            try:
                self._client.put_object(Bucket=self._bucket, Key=self._prefix + name, Body=content, IfNoneMatch="*")
            except botocore.exceptions.ClientError as error:
                if error.response["Error"]["Code"] in ("PreconditionFailed", "ConditionalRequestConflict"):
                    return False
                raise
        return True

    def delete(self, name: str) -> None:
        """Remove an object."""
        with self._failures():
            self._client.delete_object(Bucket=self._bucket, Key=self._prefix + name)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock nothing."""
        yield

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        import botocore.exceptions  # noqa: PLC0415

        try:
            yield
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
            hint = "run the same command again: what is there is not sent twice"
            raise FetchError(f"{self.shown}: {error}", hint=hint) from error
