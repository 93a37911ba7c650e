"""Storage in a bucket of S3 or of any server that speaks its protocol, through boto3.

Large files go up in parts (boto3's transfer manager); S3 shows an object only when its last part has arrived. boto3 1.36 began to send
checksums that older servers refuse, so they are asked for only where the protocol needs them; boto3 1.33 (Python 3.7) has no such option. With
an endpoint of one's own, the bucket goes into the path, because a name like bucket.127.0.0.1 does not resolve.
"""

import contextlib
import io
import os
import re

import boto3
import boto3.exceptions
import boto3.s3.transfer
import botocore.config
import botocore.exceptions
import s3transfer.exceptions
import urllib3.exceptions

from mtc import files
from mtc.errors import UserError
from mtc.storage import Storage, TransientError, check_key

_MISSING = ("NoSuchKey", "404", "NotFound")
_WRONG_KEY = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired")
_DENIED = ("AccessDenied", "AllAccessDisabled", "AccountProblem", "Forbidden", "403", "401", "Unauthorized")
_ELSEWHERE = ("PermanentRedirect", "301", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException")
_BUSY = ("SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "Throttling", "ThrottlingException", "OperationAborted")
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
    s3transfer.exceptions.RetriesExceededError,
    urllib3.exceptions.HTTPError,
    ConnectionError,
    TimeoutError,
)


class S3Storage(Storage):
    """Objects below `prefix` in a bucket, with the credentials that boto3 finds: AWS_* variables, ~/.aws, the machine's role."""

    def __init__(self, bucket, prefix="", endpoint="", region=""):
        self.bucket, self.prefix = bucket, check_key(prefix) if prefix else ""
        self.endpoint = endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
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
        self._transfer = boto3.s3.transfer.TransferConfig(multipart_threshold=16 << 20, multipart_chunksize=16 << 20, max_concurrency=4)

    def put(self, path, key):
        name = self._name(key)
        with open(path, "rb") as f, self._errors(key):
            self._client.upload_fileobj(f, self.bucket, name, Config=self._transfer)

    def get(self, key, path):
        name = self._name(key)
        with files.atomic_file(path) as f, self._errors(key):
            self._client.download_fileobj(self.bucket, name, f, Config=self._transfer)

    def read(self, key):
        try:
            with self._errors(key):
                return self._client.get_object(Bucket=self.bucket, Key=self._name(key))["Body"].read()
        except FileNotFoundError:
            return None

    def write(self, key, data):
        with self._errors(key):
            self._client.put_object(Bucket=self.bucket, Key=self._name(key), Body=data)

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
        with self._errors(prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=folder + "/" if folder else "")
            for page in pages:
                for entry in page.get("Contents", ()):
                    if not entry["Key"].endswith("/"):  # what some tools make in the place of a folder
                        found[entry["Key"][len(self.prefix) + 1 if self.prefix else 0 :]] = entry["Size"]
        return found

    def delete(self, key):
        with self._errors(key), contextlib.suppress(FileNotFoundError):
            self._client.delete_object(Bucket=self.bucket, Key=self._name(key))

    def url(self, key):
        parts = [self.bucket, self.prefix, check_key(key) if key else ""]
        return "s3://" + "/".join(part for part in parts if part)

    def _name(self, key):
        return "{}/{}".format(self.prefix, check_key(key)) if self.prefix else check_key(key)

    def _blocks(self, body, key):
        with contextlib.closing(body), self._errors(key):
            yield from iter(lambda: body.read(files.BLOCK), b"")

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
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        where = self.url(key)
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
        if code in _BUSY or status >= 500 or status in (408, 429):
            return TransientError("{}: {}".format(where, _one_line(error)))
        return UserError("{}: the S3 server refuses the request: {}".format(where, _one_line(error)))


def _client_config(path_style):
    options = {
        "retries": {"mode": "standard", "total_max_attempts": 2},  # callers retry with longer pauses of their own
        "connect_timeout": 10,
        "read_timeout": 60,
        "s3": {"addressing_style": "path"} if path_style else {},
    }
    try:
        return botocore.config.Config(request_checksum_calculation="when_required", response_checksum_validation="when_required", **options)
    except TypeError:  # botocore before 1.36 neither has nor needs these options
        return botocore.config.Config(**options)


def _one_line(error):
    return " ".join(str(error).split())
