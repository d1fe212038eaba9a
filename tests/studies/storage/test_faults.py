"""What a storage says, as one sentence."""

from studies.storage.faults import failure

GOOGLE = (
    "google::cloud::Status(UNAVAILABLE: Retry policy exhausted. The request was not sent. Learn "
    "more about it at https://example.com. The underlying error message was: PerformWork() - CURL "
    "error [6]=Could not resolve hostname error_info={reason=, domain=, metadata={gcloud-cpp=1}})"
)


def test_of_a_page_of_googles_what_has_failed_is_told() -> None:
    said = str(failure("reached", "gs://bucket", OSError(GOOGLE)))
    assert said == (
        "'gs://bucket' cannot be reached: PerformWork() - CURL error [6]=Could not resolve "
        "hostname."
    )
