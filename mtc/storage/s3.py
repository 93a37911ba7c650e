"""Storage in a bucket of S3 or of any server that speaks its protocol, through boto3.

Large files go up in parts (s3transfer's manager), read from the disk as they are sent; S3 shows an object only when its last part has arrived. Every
body's SHA-256 is signed, and that of files goes along as S3's checksum too, so a server that looks refuses what was damaged on the way (Amazon's
does, rclone 1.75 does not). boto3 1.36 began to send checksums with every request, which older servers refuse: all others are asked for only where
the protocol needs them. An object's version is its ETag; the conditions on it are the headers If-Match and If-None-Match of PutObject ("How to
prevent object overwrites with conditional writes", Amazon S3 User Guide), for which boto3 1.33 (Python 3.7) has no parameters. With an endpoint of
one's own, the bucket goes into the path, because a name like bucket.127.0.0.1 does not resolve.
"""

import contextlib
import email.utils
import io
import logging
import os
import re
import threading
import time

import boto3
import boto3.exceptions
import boto3.s3.transfer
import botocore.config
import botocore.exceptions
import botocore.parsers
import s3transfer.exceptions
import s3transfer.utils
import urllib3.exceptions
from s3transfer.manager import TransferManager

from mtc import files
from mtc.errors import UserError
from mtc.storage import CREDENTIALS_ELSEWHERE, Conflict, Storage, TransientError, abandonable, check_key, probe_key

log = logging.getLogger("mtc.storage")

CONNECT_TIMEOUT, READ_TIMEOUT = 10.0, 60.0
"""Seconds without an answer after which a request has failed."""

_MAX_SKEW = 900.0
"""Seconds by which S3 lets a signature's time be off."""
_MISSING = ("NoSuchKey", "404", "NotFound")
_WRONG_KEY = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired")
_DENIED = ("AccessDenied", "AllAccessDisabled", "AccountProblem", "Forbidden", "403", "401", "Unauthorized")
_ELSEWHERE = ("PermanentRedirect", "301", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException")
_BUSY = ("SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "Throttling", "ThrottlingException", "OperationAborted")
_BUSY += ("ConditionalRequestConflict", "PreconditionFailed")  # somebody else writes the same object at this moment
_DAMAGED = ("EntityTooSmall", "InvalidPart", "InvalidPartOrder", "BadDigest", "XAmzContentSHA256Mismatch", "IncompleteBody", "NoSuchUpload")
_NOT_AS_EXPECTED = ("PreconditionFailed", "412", "NoSuchKey", "404")
_SKEWED = ("RequestTimeTooSkewed", "RequestExpired")
_CREDENTIALS = (
    botocore.exceptions.NoCredentialsError,
    botocore.exceptions.PartialCredentialsError,
    botocore.exceptions.CredentialRetrievalError,
    botocore.exceptions.ProfileNotFound,
)
_NETWORK = (
    botocore.exceptions.HTTPClientError,
    botocore.exceptions.ConnectionError,
    botocore.exceptions.IncompleteReadError,
    boto3.exceptions.RetriesExceededError,
    botocore.parsers.ResponseParserError,
    s3transfer.exceptions.RetriesExceededError,
    getattr(s3transfer.exceptions, "S3DownloadFailedError", s3transfer.exceptions.RetriesExceededError),  # replaced meanwhile; new in 0.11
    urllib3.exceptions.HTTPError,
    ConnectionError,
    TimeoutError,
)


_LONGEST = 400
"""Characters of an error's text."""


class S3Storage(Storage):
    """Objects below `prefix` in a bucket, with the credentials that boto3 finds: AWS_* variables, ~/.aws, the machine's role."""

    def __init__(self, bucket, prefix="", endpoint="", region=""):
        self.bucket, self.prefix = bucket, check_key(prefix) if prefix else ""
        self.endpoint = endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
        if "@" in self.endpoint:
            raise UserError("storage.endpoint: " + CREDENTIALS_ELSEWHERE)
        if self.endpoint and not re.match(r"https?://[^/\s]+", self.endpoint):
            raise UserError("storage.endpoint={}: expected the URL of an S3 server, http(s)://host:port".format(self.endpoint))
        with self._errors(""):
            session = boto3.session.Session()
            region = region or session.region_name or ("us-east-1" if self.endpoint else None)
            try:
                config = _client_config(path_style=bool(self.endpoint))
                self._client = session.client("s3", endpoint_url=self.endpoint or None, region_name=region, config=config)
            except ValueError as error:  # boto3's answer to an endpoint that is no URL
                raise UserError("storage.endpoint={}: {}".format(self.endpoint, _one_line(error))) from None
        self._transfer = boto3.s3.transfer.TransferConfig(
            multipart_threshold=16 << 20, multipart_chunksize=16 << 20, max_concurrency=4, max_io_queue=32
        )
        self._condition = threading.local()
        self._client.meta.events.register("before-call.s3.PutObject", self._add_condition)
        for operation in ("PutObject", "UploadPart"):
            self._client.meta.events.register("before-call.s3." + operation, _checksum_in_header)
        self._honours_conditions = None

    def put(self, path, key, on_bytes=None):
        name = self._name(key)
        with open(path, "rb"):  # what is wrong with the file itself is told here and as it is
            pass
        with abandonable(on_bytes) as count, self._errors(key), TransferManager(self._client, self._transfer, _Counted(count)) as manager:
            manager.upload(path, self.bucket, name, extra_args={"ChecksumAlgorithm": "SHA256"}).result()

    def get(self, key, path):
        name = self._name(key)
        with files.atomic_file(path) as f, self._errors(key):
            self._client.download_fileobj(self.bucket, name, f, Config=self._transfer)

    def read_versioned(self, key):
        try:
            with self._errors(key):
                answer = self._client.get_object(Bucket=self.bucket, Key=self._name(key))
                return answer["Body"].read(), answer["ETag"]
        except FileNotFoundError:
            return None, ""

    def write(self, key, data, expected=None):
        name = self._name(key)
        with self._errors(key):
            try:
                self._condition.expected = expected
                return self._client.put_object(Bucket=self.bucket, Key=name, Body=data)["ETag"]
            except botocore.exceptions.ClientError as error:
                if expected is None or _code(error) not in _NOT_AS_EXPECTED:
                    raise
            finally:
                self._condition.expected = None
        found, version = self.read_versioned(key)
        if found == data:
            return version  # an earlier try had arrived, only its answer was lost
        raise Conflict(self.url(key))

    def honours_conditions(self):
        if self._honours_conditions is None:
            self._honours_conditions = self._try_conditions()
            if not self._honours_conditions:
                log.warning("%s: the S3 server ignores conditions on writes (If-Match, If-None-Match)", self.endpoint or self.url(""))
        return self._honours_conditions

    def _try_conditions(self):
        key = probe_key()
        self.write(key, b"mtc storage probe\n")
        try:
            for data, expected in ((b"created twice\n", ""), (b"replaced another\n", '"{}"'.format("0" * 32))):
                try:
                    self.write(key, data, expected)
                except Conflict:
                    continue
                except UserError as error:  # it took the write without a condition
                    log.info("%s", error)
                return False
            return True
        finally:
            self.delete(key)

    def stream(self, key, start=0):
        with self._errors(key):
            total = self._client.head_object(Bucket=self.bucket, Key=self._name(key))["ContentLength"]
            if start >= total:  # S3 refuses a range that is empty
                return self._blocks(io.BytesIO(), key), total
            body = self._client.get_object(Bucket=self.bucket, Key=self._name(key), Range="bytes={}-".format(start))["Body"]
        return self._blocks(body, key), total

    def sizes(self, prefix=""):
        folder = self._name(prefix) if prefix else self.prefix
        found = {}
        with self._listing(prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=folder + "/" if folder else "")
            for page in pages:
                for entry in page.get("Contents", ()):
                    if not entry["Key"].endswith("/"):  # what some tools make in the place of a folder
                        found[entry["Key"][len(self.prefix) + 1 if self.prefix else 0 :]] = entry["Size"]
        return found

    def delete(self, key):
        with self._errors(key), contextlib.suppress(FileNotFoundError):
            self._client.delete_object(Bucket=self.bucket, Key=self._name(key))

    def abort_uploads(self, prefix=""):
        folder, count = self._name(prefix) if prefix else self.prefix, 0
        pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=folder + "/" if folder else "")
        with self._listing(prefix):
            try:
                uploads = [upload for page in pages for upload in page.get("Uploads", ())]
            except botocore.exceptions.ClientError as error:
                if _code(error) == "NoSuchUpload":  # rclone's answer where there never was one
                    return 0
                if not _is_unknown(error):
                    raise
                log.info("%s: the S3 server does not list unfinished uploads", self.endpoint or self.url(""))
                return 0
            for upload in uploads:
                try:
                    self._client.abort_multipart_upload(Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"])
                    count += 1
                except botocore.exceptions.ClientError as error:
                    if _code(error) != "NoSuchUpload":  # ended meanwhile
                        raise
        return count

    def url(self, key):
        parts = [self.bucket, self.prefix, check_key(key) if key else ""]
        return "s3://" + "/".join(part for part in parts if part)

    def _name(self, key):
        return "{}/{}".format(self.prefix, check_key(key)) if self.prefix else check_key(key)

    def _add_condition(self, params, **_):
        """Event handler of botocore: add to a PutObject request the condition that its thread has set."""
        expected = getattr(self._condition, "expected", None)
        if expected is not None:
            params["headers"].update({"If-Match": expected} if expected else {"If-None-Match": "*"})

    def _blocks(self, body, key):
        with contextlib.closing(body), self._errors(key):
            yield from iter(lambda: body.read(files.BLOCK), b"")

    @contextlib.contextmanager
    def _listing(self, prefix):
        """`_errors` for what asks about the bucket: a list is never "not found", so such an answer has lost its body, with the reason, on the way."""
        with self._errors(prefix):
            try:
                yield
            except botocore.exceptions.ClientError as error:
                if isinstance(self._client_error(error, prefix), FileNotFoundError):
                    raise TransientError("{}: the answer arrived damaged: {}".format(self.url(prefix), _one_line(error))) from error
                raise

    @contextlib.contextmanager
    def _errors(self, key):
        """Translate boto3's many errors into the three of the interface."""
        try:
            yield
        except botocore.exceptions.ClientError as error:
            raise self._client_error(error, key) from error
        except _CREDENTIALS as error:
            raise UserError(
                "S3 credentials are missing or wrong ({}): set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE".format(_one_line(error))
            ) from None
        except _NETWORK as error:
            raise TransientError("{}: {}".format(self.endpoint or "S3", _one_line(error))) from error
        except botocore.exceptions.BotoCoreError as error:
            raise UserError("{}: {}".format(self.url(key), _one_line(error))) from error

    def _client_error(self, error, key):
        """Return the exception of the interface for an answer of the server."""
        code, status, where = _code(error), _status(error), self.url(key)
        if code in _SKEWED or (code == "403" and _clock_is_off(error)):
            return TransientError("{}: the server's time is another ({}): check this machine's clock".format(where, code))
        if code in _DAMAGED:
            return TransientError("{}: the transfer failed: {}".format(where, _one_line(error)))
        if code == "NoSuchBucket":
            return UserError("bucket '{}' does not exist at {}: make it, or correct the URI".format(self.bucket, self.endpoint or "AWS"))
        if code in _WRONG_KEY:
            return UserError("{}: the server refuses the credentials ({}): check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY".format(where, code))
        if code in _DENIED or status in (401, 403):
            return UserError("{}: access denied ({}): check the credentials and the bucket's policy".format(where, code or status))
        if code in _ELSEWHERE or status == 301:
            return UserError("{}: the bucket is in another region ({}): set storage.region".format(where, code))
        if code in _MISSING or status == 404:
            return FileNotFoundError("{} does not exist".format(where))
        if code in _BUSY or (status >= 500 and not _is_unknown(error)) or status in (408, 412, 429):
            return TransientError("{}: {}".format(where, _one_line(error)))
        return UserError("{}: the S3 server refuses the request: {}".format(where, _one_line(error)))


class _Counted(s3transfer.utils.OSUtils):
    """What s3transfer reads files with, made to count each block before it goes out: its own callbacks tell of the last one when it has arrived."""

    def __init__(self, count):
        self._count = count

    def open_file_chunk_reader_from_fileobj(self, fileobj, chunk_size, full_file_size, callbacks, close_callbacks=None):
        def count(bytes_transferred):
            self._count(bytes_transferred)

        return super().open_file_chunk_reader_from_fileobj(fileobj, chunk_size, full_file_size, [count])


def _checksum_in_header(params, **_):
    """Event handler of botocore: over TLS it would send the checksum behind the body, and the body in chunks, without a length and not signed.

    Amazon takes that, other servers refuse it (rclone 1.75: MissingContentLength).
    """
    algorithm = params["context"].get("checksum", {}).get("request_algorithm")
    if isinstance(algorithm, dict) and algorithm["in"] == "trailer":
        algorithm["in"] = "header"


def _client_config(path_style):
    options = {
        "retries": {"mode": "standard", "total_max_attempts": 2},  # callers retry with longer pauses of their own
        "connect_timeout": CONNECT_TIMEOUT,
        "read_timeout": READ_TIMEOUT,
        "s3": dict({"addressing_style": "path"} if path_style else {}, payload_signing_enabled=True),
    }
    try:
        return botocore.config.Config(request_checksum_calculation="when_required", response_checksum_validation="when_required", **options)
    except TypeError:  # botocore before 1.36 neither has nor needs these options
        return botocore.config.Config(**options)


def _code(error):
    return str(error.response.get("Error", {}).get("Code", ""))


def _status(error):
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _is_unknown(error):
    """Whether the server does not know the request at all."""
    return _status(error) == 501 or _code(error) in ("NotImplemented", "MethodNotAllowed")


def _clock_is_off(error):
    """Whether the server's time is too far from this machine's; the answer to a HEAD request has no other sign of it."""
    try:
        date = email.utils.parsedate_to_datetime(error.response["ResponseMetadata"]["HTTPHeaders"]["date"])
    except (KeyError, TypeError, ValueError):
        return False
    return abs(date.timestamp() - time.time()) > _MAX_SKEW


def _one_line(error):
    """Return an error's text, shortened: of an answer that was cut, it holds the whole of it."""
    text = " ".join(str(error).split())
    return text if len(text) <= _LONGEST else text[:_LONGEST] + " …"
