use std::future::Future;

use ::http::{
    HeaderMap, Request, StatusCode,
    header::{CONNECTION, RETRY_AFTER},
};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy;
use tokio_stream::StreamExt;
use tonic::Code;

use super::*;
use crate::{
    proto::{FetchRequest, QueryRequest, Record, UpsertRequest},
    testing::{
        HyperClient,
        Over::{Http1, Http2},
        grpc_client, hyper_client, io_kind, is, is_lost_connection,
    },
};

const NO_TIME: ServiceTime = ServiceTime::constant(Duration::ZERO);
const LONG: ServiceTime = ServiceTime::constant(Duration::from_secs(3600));

fn quick() -> Builder {
    Upstream::builder().service_time(NO_TIME)
}

fn troubled(kind: TroubleKind) -> Story {
    Story::new(vec![Phase {
        troubles: vec![Trouble::always(kind)],
        ..Phase::default()
    }])
    .unwrap()
}

fn request(url: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::post(url).body(Full::new(body.into())).unwrap()
}

/// The answer: status, headers and body.
type Answered = (StatusCode, HeaderMap, Bytes);

async fn post(
    client: &HyperClient,
    upstream: &Upstream,
    body: impl Into<Bytes>,
) -> Result<Answered, legacy::Error> {
    let response = client.request(request(&upstream.url(), body)).await?;
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Ok((head.status, head.headers, body))
}

fn batch(ids: &[&str]) -> UpsertRequest {
    let record = |id: &&str| Record {
        id: (*id).to_owned(),
        vector: vec![0.5; 8],
        ..Record::default()
    };
    UpsertRequest {
        records: ids.iter().map(record).collect(),
    }
}

/// Waits for something that is bound to come.
async fn until<F: Future<Output = bool>>(mut reached: impl FnMut() -> F) {
    while !reached().await {
        time::sleep(Duration::from_millis(1)).await;
    }
}

async fn in_flight(upstream: &Upstream, count: usize) {
    until(async || upstream.stats().in_flight == count).await;
}

#[tokio::test]
async fn http_stores_the_records_of_a_body() {
    let upstream = quick().start().await.unwrap();
    for (over, body, accepted) in [
        (
            Http1,
            r#"{"records":[{"id":"a","vector":[1.0]},{"id":"b"}]}"#,
            2,
        ),
        (Http2, r#"[{"id":"b"},{"id":"c"},{"id":"d"}]"#, 3),
        (Http1, "", 0),
    ] {
        let (status, _, body) = post(&hyper_client(over), &upstream, body).await.unwrap();
        assert_eq!(status, StatusCode::OK);
        assert_eq!(body, format!(r#"{{"accepted":{accepted}}}"#));
    }
    let (status, ..) = post(&hyper_client(Http1), &upstream, "no json")
        .await
        .unwrap();
    assert_eq!(status, StatusCode::BAD_REQUEST);

    let stats = upstream.stats();
    assert_eq!(
        (stats.attempts, stats.successes, stats.connections),
        (4, 3, 4)
    );
    assert_eq!((stats.distinct_ids, stats.duplicate_ids), (4, 1));
    assert_eq!(["b", "c", "e"].map(|id| upstream.stored(id)), [2, 1, 0]);
}

#[tokio::test]
async fn grpc_has_calls_of_all_four_kinds_on_the_same_port() {
    let upstream = quick().start().await.unwrap();
    let mut client = grpc_client(upstream.url());
    let stored = client.upsert(batch(&["b", "c"])).await.unwrap();
    assert_eq!(stored.into_inner().accepted, 2);

    let batches = tokio_stream::iter([batch(&["a"]), batch(&["d", "a"])]);
    let stored = client.upsert_stream(batches).await.unwrap();
    assert_eq!(stored.into_inner().accepted, 3);

    let batches = tokio_stream::iter([batch(&["e"]), batch(&["f", "g"])]);
    let answers = client.sync(batches).await.unwrap().into_inner();
    let accepted: Vec<_> = answers
        .map(|answer| answer.unwrap().accepted)
        .collect()
        .await;
    assert_eq!(accepted, [1, 2]);

    let query = QueryRequest {
        vector: vec![],
        limit: 3,
    };
    assert_eq!(
        client.query(query).await.unwrap().into_inner().ids,
        ["a", "b", "c"]
    );

    let ids = ["g", "x", "a"].map(String::from).to_vec();
    let records = client
        .fetch(FetchRequest { ids })
        .await
        .unwrap()
        .into_inner();
    let ids: Vec<_> = records.map(|record| record.unwrap().id).collect().await;
    assert_eq!(ids, ["g", "a"]);

    let stats = upstream.stats();
    assert_eq!(
        (stats.attempts, stats.successes, stats.connections),
        (5, 5, 1)
    );
    assert_eq!((stats.distinct_ids, stats.duplicate_ids), (7, 1));
}

#[tokio::test]
async fn side_doors_are_no_attempts() {
    let upstream = quick().slots(0).start().await.unwrap();
    for (path, expected) in [("healthz", "\"ok\""), ("stats", "{\"attempts\":0,")] {
        let url = format!("{}/{path}", upstream.url());
        let get = Request::get(url).body(Full::default()).unwrap();
        let response = hyper_client(Http1).request(get).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert!(body.starts_with(expected.as_bytes()), "{body:?}");
    }
    assert_eq!(upstream.stats().attempts, 0);
}

#[tokio::test]
async fn refusals_are_429_and_tell_how_long_when_they_shall() {
    for (retry_after, expected) in [
        (None, None),
        (Some(Duration::from_secs(1)), Some("1")),
        (Some(Duration::from_millis(1001)), Some("2")),
    ] {
        let refusal = Refusal {
            retry_after,
            ..Refusal::default()
        };
        let upstream = quick().slots(0).refusal(refusal).start().await.unwrap();
        for over in [Http1, Http2] {
            let (status, headers, _) = post(&hyper_client(over), &upstream, "[]").await.unwrap();
            assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
            let told = headers
                .get(RETRY_AFTER)
                .map(|value| value.to_str().unwrap());
            assert_eq!(told, expected);
        }
        assert_eq!(upstream.stats().rejections, 2);
    }
}

#[tokio::test]
async fn grpc_refusals_of_all_four_kinds_are_trailers_only() {
    let refusal = Refusal {
        retry_after: Some(Duration::from_millis(1500)),
        ..Refusal::default()
    };
    let upstream = quick().slots(0).refusal(refusal).start().await.unwrap();
    let mut client = grpc_client(upstream.url());
    let never = tokio_stream::pending::<UpsertRequest>;
    let refused = [
        client.upsert(batch(&["a"])).await.unwrap_err(),
        client.fetch(FetchRequest::default()).await.unwrap_err(),
        client.upsert_stream(never()).await.unwrap_err(),
        client.sync(never()).await.unwrap_err(),
    ];
    for status in refused {
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(
            status.metadata().get("grpc-retry-pushback-ms").unwrap(),
            "1500"
        );
    }
    assert_eq!(
        (upstream.stats().rejections, upstream.stats().connections),
        (4, 1)
    );

    let mut raw = request(&upstream.url(), vec![0; 200_000]);
    let grpc = "application/grpc".parse().unwrap();
    raw.headers_mut().insert("content-type", grpc);
    let response = hyper_client(Http2).request(raw).await.unwrap();
    assert_eq!(response.headers()["grpc-status"], "8");
    assert!(response.into_body().frame().await.is_none());
}

#[tokio::test]
async fn a_measured_refusal_is_the_layers_own() {
    let refusal = Refusal {
        measured: true,
        ..Refusal::default()
    };
    let upstream = quick().slots(0).refusal(refusal).start().await.unwrap();
    let (_, headers, body) = post(&hyper_client(Http1), &upstream, "[]").await.unwrap();
    assert_eq!(headers[RETRY_AFTER], "1");
    assert_eq!(headers["content-type"], "application/problem+json");
    let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(problem["code"], "too-many-jobs");

    let mut client = grpc_client(upstream.url());
    let status = client.upsert(batch(&["a"])).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    let pushback = status.metadata().get("grpc-retry-pushback-ms").unwrap();
    assert_eq!(pushback, "1");
    let info = b"type.googleapis.com/google.rpc.RetryInfo";
    let mut details = status.details().windows(info.len());
    assert!(details.any(|part| part == info), "{status:?}");
}

#[tokio::test]
async fn who_goes_away_while_waiting_leaves_the_queue() {
    let upstream = Upstream::builder()
        .slots(1)
        .service_time(LONG)
        .refusal(RefuseMode::Queue.refusal(1))
        .start()
        .await
        .unwrap();
    let (first, second) = (hyper_client(Http1), hyper_client(Http1));
    tokio::select! {
        answer = post(&first, &upstream, r#"{"id":"a"}"#) => panic!("{answer:?}"),
        () = async {
            in_flight(&upstream, 1).await;
            tokio::select! {
                answer = post(&second, &upstream, vec![b' '; 1 << 20]) => panic!("{answer:?}"),
                () = in_flight(&upstream, 2) => {}
            }
            in_flight(&upstream, 1).await;
        } => {}
    }
}

#[tokio::test]
async fn a_refused_body_is_discarded_up_to_a_limit() {
    let upstream = quick().slots(0).start().await.unwrap();
    let client = hyper_client(Http1);
    for _ in 0..2 {
        let (_, headers, _) = post(&client, &upstream, vec![b'x'; 1 << 20]).await.unwrap();
        assert_eq!(headers.get(CONNECTION), None);
    }
    assert_eq!(upstream.stats().connections, 1);
    // above it the client may lose the answer, as with other servers
    if let Ok((_, headers, _)) = post(&client, &upstream, vec![b'x'; 16 << 20]).await {
        assert_eq!(headers[CONNECTION], "close");
    }
    until(async || post(&client, &upstream, "").await.is_ok()).await;
    assert!(upstream.stats().connections > 1);
}

#[tokio::test]
async fn the_queue_waits_for_slots() {
    let refusal = Refusal {
        queue: 1,
        ..Refusal::default()
    };
    let upstream = quick().slots(0).refusal(refusal).start().await.unwrap();
    let (client, mut grpc) = (hyper_client(Http1), grpc_client(upstream.url()));
    let freed = async {
        in_flight(&upstream, 1).await;
        let refused = grpc.upsert(batch(&["b"])).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        upstream.set_slots(1);
    };
    let (queued, ()) = tokio::join!(post(&client, &upstream, r#"{"id":"a"}"#), freed);
    assert_eq!(queued.unwrap().0, StatusCode::OK);
    let stats = upstream.stats();
    assert_eq!((stats.successes, stats.rejections, stats.slots), (1, 1, 1));
}

#[tokio::test]
async fn a_caller_that_goes_away_frees_its_slot() {
    let upstream = Upstream::builder()
        .service_time(LONG)
        .start()
        .await
        .unwrap();
    for over in [Http1, Http2] {
        let client = hyper_client(over);
        tokio::select! {
            answer = post(&client, &upstream, r#"{"id":"a"}"#) => panic!("{answer:?}"),
            () = in_flight(&upstream, 1) => {}
        }
        in_flight(&upstream, 0).await;
    }
    assert_eq!(upstream.stats().distinct_ids, 0);
}

#[tokio::test]
async fn the_first_requests_get_a_status() {
    let answer = Answer {
        retry_after: Some(Duration::from_secs(3)),
        ..Answer::status(StatusCode::SERVICE_UNAVAILABLE)
    };
    let story = Story::new(vec![Phase {
        requests: Some(2),
        troubles: vec![Trouble::always(TroubleKind::Answer(answer))],
        ..Phase::default()
    }])
    .unwrap();
    let upstream = quick().story(story).start().await.unwrap();
    let (status, headers, _) = post(&hyper_client(Http1), &upstream, "[]").await.unwrap();
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(headers[RETRY_AFTER], "3");
    let mut client = grpc_client(upstream.url());
    let status = client.upsert(batch(&["a"])).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(
        status.metadata().get("grpc-retry-pushback-ms").unwrap(),
        "3000"
    );
    client.upsert(batch(&["a"])).await.unwrap();
    let stats = upstream.stats();
    assert_eq!((stats.failures, stats.successes), (2, 1));
}

#[tokio::test]
async fn a_hung_request_takes_no_slot() {
    let story = troubled(TroubleKind::Hang);
    let upstream = quick().story(story).start().await.unwrap();
    let mut client = grpc_client(upstream.url());
    tokio::select! {
        answer = client.upsert(batch(&["a"])) => panic!("{answer:?}"),
        () = until(async || upstream.stats().unanswered == 1) => {}
    }
    assert_eq!(upstream.stats().peak_in_flight, 0);
    upstream.set_phase(Phase::default()).unwrap();
    client.upsert(batch(&["a"])).await.unwrap();
}

#[tokio::test]
async fn a_lost_answer_and_its_repetition_make_a_duplicate() {
    for over in [Http1, Http2] {
        let story = troubled(TroubleKind::CloseBeforeResponse);
        let upstream = quick().story(story).start().await.unwrap();
        let client = hyper_client(over);
        let error = post(&client, &upstream, r#"{"id":"a"}"#).await.unwrap_err();
        match over {
            Http1 => assert!(is(&error, hyper::Error::is_incomplete_message)),
            Http2 => assert!(is_lost_connection(&error), "{error:?}"),
        }
        upstream.set_phase(Phase::default()).unwrap();
        post(&client, &upstream, r#"{"id":"a"}"#).await.unwrap();
        let stats = upstream.stats();
        assert_eq!((stats.unanswered, stats.successes), (1, 1));
        assert_eq!((stats.distinct_ids, stats.duplicate_ids), (1, 1));
    }
}

#[tokio::test]
async fn an_answer_is_cut_in_its_middle() {
    for over in [Http1, Http2] {
        let story = troubled(TroubleKind::CloseMidResponse);
        let upstream = quick().story(story).start().await.unwrap();
        let request = request(&upstream.url(), r#"{"id":"a"}"#);
        let response = hyper_client(over).request(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let mut body = response.into_body();
        let half = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(half, r#"{"accep"#);
        body.frame().await.unwrap().unwrap_err();
        assert_eq!(upstream.stored("a"), 1);

        let status = grpc_client(upstream.url())
            .upsert(batch(&["b"]))
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::Unknown);
        assert_eq!(upstream.stats().unanswered, 2);
    }
}

#[tokio::test]
async fn an_outage_cuts_connections_and_refuses_new_ones() {
    for over in [Http1, Http2] {
        let upstream = Upstream::builder()
            .service_time(LONG)
            .start()
            .await
            .unwrap();
        let client = hyper_client(over);
        let down = async {
            in_flight(&upstream, 1).await;
            let outage = Phase {
                outage: true,
                ..Phase::default()
            };
            upstream.set_phase(outage).unwrap();
        };
        let (cut, ()) = tokio::join!(post(&client, &upstream, r#"{"id":"a"}"#), down);
        let error = cut.unwrap_err();
        assert!(
            is(&error, hyper::Error::is_incomplete_message) || is_lost_connection(&error),
            "{error:?}"
        );
        in_flight(&upstream, 0).await;
        let error = post(&client, &upstream, "").await.unwrap_err();
        assert_eq!(io_kind(&error), Some(io::ErrorKind::ConnectionRefused));
        assert_eq!((upstream.stats().slots, upstream.stored("a")), (0, 0));

        upstream.set_phase(Phase::default()).unwrap();
        tokio::select! {
            () = until(async || post(&client, &upstream, "").await.is_ok()) => panic!("too quick"),
            () = in_flight(&upstream, 1) => {}
        }
    }
}

#[tokio::test]
async fn a_run_is_never_quicker_than_its_ideal_time() {
    let millis = Duration::from_millis;
    let story = Story::new(vec![Phase {
        lasts: Some(millis(40)),
        slots: Some(2),
        ..Phase::default()
    }])
    .unwrap();
    let upstream = Upstream::builder()
        .slots(4)
        .service_time(ServiceTime::log_normal(millis(4), 0.3).unwrap())
        .refusal(RefuseMode::Queue.refusal(4))
        .story(story)
        .start()
        .await
        .unwrap();
    let client = hyper_client(Http1);
    let began = Instant::now();
    let writers: JoinSet<()> = (0..8)
        .map(|writer| {
            let (client, url) = (client.clone(), upstream.url());
            async move {
                for batch in 0..10 {
                    let body = format!(r#"{{"id":"{writer}-{batch}"}}"#);
                    let answer = client.request(request(&url, body)).await.unwrap();
                    assert_eq!(answer.status(), StatusCode::OK);
                }
            }
        })
        .collect();
    writers.join_all().await;
    let wall = began.elapsed();

    let stats = upstream.stats();
    assert_eq!((stats.successes, stats.distinct_ids), (80, 80));
    assert!(stats.peak_in_flight <= 8);
    let line = upstream.time_line();
    let slots: Vec<_> = line.capacity.iter().map(|point| point.value).collect();
    assert_eq!(slots, [2, 4]);
    assert_eq!(line.in_flight.last().unwrap().value, 0);
    let ideal = upstream.ideal_time().unwrap();
    assert!(wall >= ideal, "{wall:?} {ideal:?}");
    // 80 draws of 4 ms; it takes a spread of 30 standard errors to halve them
    assert!(stats.slot_time >= 80 * millis(2), "{:?}", stats.slot_time);
}

#[tokio::test]
async fn a_port_in_use_is_an_error() {
    let upstream = quick().start().await.unwrap();
    let error = quick().addr(upstream.addr()).start().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
}

#[tokio::test]
async fn after_a_shutdown_nothing_listens() {
    let upstream = quick().start().await.unwrap();
    let addr = upstream.addr();
    upstream.shutdown().await;
    let error = tokio::net::TcpStream::connect(addr).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
}
