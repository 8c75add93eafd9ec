use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::BodyExt;

use super::*;
use crate::{
    outcome::Idempotent,
    split::{Answer, Merge, Split},
};

fn parts(items: Items, ranges: &[std::ops::Range<usize>]) -> Vec<String> {
    let request = Request::new(items);
    let mut kept = request.keep();
    assert!(Request::count(&mut kept) >= 2);
    let part = |range: &std::ops::Range<usize>| {
        let part = Request::part(&kept, range.clone());
        String::from_utf8(part.body().as_bytes().to_vec()).unwrap()
    };
    ranges.iter().map(part).collect()
}

fn count(items: Items) -> usize {
    Request::count(&mut Request::new(items).keep())
}

#[test]
fn an_array_is_cut_between_its_elements_and_kept_to_the_byte() {
    let text = r#" [ {"a,]":"}\"]"} ,[1, 2],3.0e2 , "é" ] "#;
    let cut = parts(Items::array(text), &[0..1, 1..3, 3..4, 0..4]);
    assert_eq!(
        cut,
        [r#"[{"a,]":"}\"]"}]"#, "[[1, 2],3.0e2]", r#"["é"]"#, text]
    );
}

#[test]
fn lines_are_cut_at_their_ends() {
    let text = "{\"a\":1}\r\n\n  \n2\n\"three\"";
    let cut = parts(Items::lines(text), &[0..1, 1..2, 1..3, 0..3]);
    assert_eq!(cut, ["{\"a\":1}\r\n", "2\n", "2\n\"three\"", text]);
    // A record without a line's end is the last one in every part.
    assert_eq!(count(Items::lines("1")), 1);
    assert_eq!(count(Items::lines("\n")), 0);
}

#[test]
fn what_is_no_array_has_no_items() {
    for text in ["", "{}", "[1,", "[1] 2", "null", "[]", "\u{0}"] {
        assert_eq!(count(Items::array(text)), 0, "{text:?}");
    }
}

#[test]
fn values_are_written_as_they_are_read() {
    let values = ["a\n", "[", "\""];
    let array = Items::array_of(&values).unwrap();
    assert_eq!(array.as_bytes(), &r#"["a\n","[","\""]"#);
    assert_eq!(count(array), 3);
    let lines = Items::lines_of(&values).unwrap();
    assert_eq!(count(lines.clone()), 3);
    assert_eq!(parts(lines, &[1..2, 0..1]), ["\"[\"\n", "\"a\\n\"\n"]);
}

#[test]
fn a_part_has_the_head_but_what_tells_of_the_whole_body() {
    let mut request = Request::put("http://index.internal/upsert")
        .header("content-type", "application/json")
        .header("content-length", "9")
        .header("content-digest", "sha-256=:x:")
        .header("signature", "sig=:x:")
        .header("idempotency-key", "\"batch-7\"")
        .body(Items::array("[1, 2, 3]"))
        .unwrap();
    request.extensions_mut().insert(7_u32);
    let mut kept = request.keep();
    assert_eq!(Request::count(&mut kept), 3);

    let part = Request::part(&kept, 1..3);
    assert_eq!(
        (part.method(), part.uri()),
        (request.method(), request.uri())
    );
    assert_eq!(part.extensions().get(), Some(&7_u32));
    let mut names: Vec<_> = part.headers().keys().map(ToString::to_string).collect();
    names.sort();
    assert_eq!(names, ["content-type", "idempotency-key"]);
    assert_eq!(part.headers()["idempotency-key"], "\"batch-7-1-3\"");

    // The whole, sent again, is the same request.
    let whole = Request::part(&kept, 0..3);
    assert_eq!(whole.headers(), request.headers());
    assert_eq!(whole.body(), request.body());
}

#[test]
fn no_two_parts_share_a_key() {
    let request = Request::post("/")
        .header("idempotency-key", "7f")
        .header("idempotency-key", "of another kind")
        .body(Items::array("[1,2,3]"))
        .unwrap();
    let mut kept = request.keep();
    Request::count(&mut kept);
    let keys = |range| {
        let part = Request::part(&kept, range);
        let keys = part.headers().get_all("idempotency-key").iter();
        keys.map(|key| key.to_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(keys(0..1), ["7f-0-1"]);
    assert_eq!(keys(0..2), ["7f-0-2"]);
}

#[test]
fn a_method_or_the_callers_word_makes_it_safe_and_a_key_does_not() {
    let safe = |method: &str, key: bool, word: bool| {
        let mut request = Request::builder().method(method);
        if key {
            request = request.header("idempotency-key", "7");
        }
        let mut request = request.body(Items::array("[]")).unwrap();
        if word {
            request.extensions_mut().insert(Idempotent);
        }
        Request::is_safe(&request.keep())
    };
    for method in ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"] {
        assert!(safe(method, false, false), "{method}");
    }
    assert!(!safe("POST", false, false) && !safe("POST", true, false));
    assert!(!safe("PATCH", false, false) && safe("PATCH", false, true));
}

#[cfg(feature = "retry")]
#[tokio::test]
async fn parts_are_not_recorded_with_the_whole() {
    use crate::{outcome::Processed, retry::Recorder};

    let recorder = Recorder::new();
    let mut request = Request::new(Items::array("[1,2]"));
    request.extensions_mut().insert(recorder.clone());
    let mut kept = request.keep();
    assert_eq!(recorder.processed(), Processed::No);
    Request::count(&mut kept);
    assert_eq!(recorder.processed(), Processed::Maybe);
    let part = Request::part(&kept, 0..1);
    assert!(part.extensions().get::<Recorder>().is_none());
}

#[tokio::test]
async fn the_body_is_sent_whole_and_its_length_is_known() {
    use http_body::Body;
    let items = Items::array("[1]");
    assert_eq!(items.size_hint().exact(), Some(3));
    assert!(!items.is_end_stream());
    assert_eq!(items.collect().await.unwrap().to_bytes(), "[1]");
    assert!(Items::lines("").is_end_stream());
}

fn answers(bodies: &[&'static str]) -> Vec<Answer<Response<Bytes>>> {
    let answer = |(at, body): (usize, &&'static str)| {
        let response = Response::builder()
            .status(StatusCode::CREATED)
            .header(header::CONTENT_LENGTH, body.len())
            .header("x-part", at)
            .body(Bytes::from_static(body.as_bytes()));
        Answer::new(at..at + 1, response.unwrap())
    };
    bodies.iter().enumerate().map(answer).collect()
}

#[test]
fn arrays_are_joined_in_order_under_the_first_ones_head() {
    for (bodies, expected) in [
        (&["[1, 2]", " [ 3 ] "][..], "[1, 2,3]"),
        (&["[]", "[1]", "[]", "[{}]"], "[1,{}]"),
        (&["[]", "[ ]"], "[]"),
        (&["", "\n"], ""),
    ] {
        let merged = JsonArrays.merge(answers(bodies)).unwrap();
        assert_eq!(merged.body(), expected);
        assert_eq!(merged.status(), StatusCode::CREATED);
        let mut headers = HeaderMap::new();
        headers.insert("x-part", "0".parse().unwrap());
        assert_eq!(merged.headers(), &headers);
    }
}

#[test]
fn answers_of_another_shape_come_back() {
    for bodies in [
        &["[1]", "{}"][..],
        &["[1]", ""],
        &["[1", "[2]"],
        &["1", "2"],
    ] {
        let unmerged = JsonArrays.merge(answers(bodies)).unwrap_err();
        let came: Vec<_> = unmerged.answers.iter().map(|a| a.response.body()).collect();
        assert_eq!(came, bodies);
    }
}

/// A server that refuses a body often closes the connection under its answer.
#[tokio::test]
async fn a_refusal_that_breaks_off_or_is_long_is_still_one() {
    use http_body::Frame;
    use http_body_util::StreamBody;
    use tower::{ServiceBuilder, ServiceExt, service_fn};

    use crate::split::SplitLayer;

    let send = async |status: StatusCode, frames: &'static [Result<&'static str, &'static str>]| {
        let service = service_fn(move |request: Request<Items>| {
            let one = request.body().as_bytes().len() < 4;
            let (status, frames) = match one {
                true => (StatusCode::OK, &[Ok("[1]")][..]),
                false => (status, frames),
            };
            let frames = frames.iter().map(|frame| match *frame {
                Ok(text) => Ok(Frame::data(Bytes::from_static(text.as_bytes()))),
                Err(error) => Err(crate::BoxError::from(error)),
            });
            let mut response = Response::new(StreamBody::new(tokio_stream::iter(frames)));
            *response.status_mut() = status;
            std::future::ready(Ok::<_, crate::BoxError>(response))
        });
        let stack = ServiceBuilder::new()
            .layer(SplitLayer::json())
            .layer(CollectLayer::new(8))
            .service(service);
        let request = Request::new(Items::array("[1,2]"));
        stack.oneshot(request).await.map(Response::into_body)
    };
    let too_large = StatusCode::PAYLOAD_TOO_LARGE;
    let merged = send(too_large, &[Ok("no"), Err("closed")]).await.unwrap();
    assert_eq!(merged, "[1,1]");
    let merged = send(too_large, &[Ok("<html>"), Ok("much of it")]).await;
    assert_eq!(merged.unwrap(), "[1,1]");
    let read = send(StatusCode::BAD_REQUEST, &[Ok("no"), Err("closed")]).await;
    assert_eq!(read.unwrap(), "no");
    let error = send(StatusCode::OK, &[Ok("[1"), Err("closed")]).await;
    assert_eq!(error.unwrap_err().to_string(), "closed");
}

#[test]
fn a_key_in_a_header_that_is_named_is_another_for_each_part() {
    let name = header::HeaderName::from_static("x-request-key");
    let mut request = Request::post("/")
        .header(&name, "7f")
        .header("idempotency-key", "8")
        .body(Items::array("[1,2,3]"))
        .unwrap();
    request.extensions_mut().insert(KeyHeader(name.clone()));
    let mut kept = request.keep();
    Request::count(&mut kept);
    let part = Request::part(&kept, 1..3);
    assert_eq!(part.headers()[&name], "7f-1-3");
    assert_eq!(part.headers()["idempotency-key"], "8-1-3");
    assert_eq!(Request::part(&kept, 0..3).headers()[&name], "7f");
}

#[cfg(feature = "idempotency")]
mod keys {
    use std::sync::{Arc, Mutex};

    use http::{HeaderName, HeaderValue};
    use tower::{ServiceBuilder, ServiceExt, service_fn};

    use super::*;
    use crate::{
        retry::{IdempotencyKey, ReplayBody, RetryLayer},
        split::{SplitLayer, merge_fn},
    };

    type Twice = ReplayBody<ReplayBody<Items>>;

    /// The keys in the header `name` of a batch of two, and of its parts.
    async fn sent(key: IdempotencyKey, name: HeaderName, request: Request<Items>) -> Vec<String> {
        let keys = Arc::new(Mutex::new(Vec::new()));
        let told = keys.clone();
        let service = service_fn(move |request: Request<Twice>| {
            let key = &request.headers()[&name];
            told.lock().unwrap().push(key.to_str().unwrap().to_owned());
            let mut response = Response::new(http_body_util::Empty::<Bytes>::new());
            if told.lock().unwrap().len() == 1 {
                *response.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
            }
            std::future::ready(Ok::<_, crate::BoxError>(response))
        });
        let stack = ServiceBuilder::new()
            .layer(SplitLayer::http(merge_fn(|mut all: Vec<_>| all.remove(0))))
            .layer(RetryLayer::http().idempotency_key(key.clone()))
            // A second layer makes no third key of it.
            .layer(RetryLayer::http().idempotency_key(key))
            .service(service);
        stack.oneshot(request).await.unwrap();
        std::mem::take(&mut *keys.lock().unwrap())
    }

    fn batch() -> Request<Items> {
        Request::post("/").body(Items::array("[1,2]")).unwrap()
    }

    #[tokio::test]
    async fn one_that_is_derived_of_the_head_is_another_for_each_part() {
        let derive = |head: &http::request::Parts| head.extensions.get::<HeaderValue>().cloned();
        for name in ["idempotency-key", "x-request-key"] {
            let name = HeaderName::from_static(name);
            let key = IdempotencyKey::derived(derive).header(name.clone());
            let mut request = batch();
            let content = HeaderValue::from_static("batch");
            request.extensions_mut().insert(content);
            let keys = sent(key, name, request).await;
            assert_eq!(keys, ["batch", "batch-0-1", "batch-1-2"]);
        }
    }

    /// An upstream would drop the second part as a repetition of the first.
    #[tokio::test]
    async fn the_callers_own_is_another_for_each_part_in_whatever_header() {
        for (name, named) in [
            ("idempotency-key", false),
            ("x-request-key", false),
            ("x-request-key", true),
        ] {
            let name = HeaderName::from_static(name);
            let key = IdempotencyKey::random().header(name.clone());
            let mut request = batch();
            let own = HeaderValue::from_static("own");
            request.headers_mut().insert(name.clone(), own);
            if named {
                request.extensions_mut().insert(KeyHeader(name.clone()));
            }
            let keys = sent(key, name, request).await;
            assert_eq!(keys, ["own", "own-0-1", "own-1-2"]);
        }
    }
}
