use std::{error::Error, io::ErrorKind};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{self, Client},
    rt::TokioExecutor,
};
use tonic::Status;

use super::*;
use crate::{
    proto::{Record, UpsertRequest, UpsertResponse},
    testing::{
        Over::{self, Http1, Http2},
        find, grpc_client, hyper_client, io_kind, is, is_lost_connection,
    },
};

/// Posts more than the first window of HTTP/2 holds.
async fn post(server: &Server, over: Over) -> Result<Response<Incoming>, legacy::Error> {
    let body = Full::new(Bytes::from(vec![b'x'; 200_000]));
    hyper_client(over)
        .request(Request::post(server.url()).body(body).unwrap())
        .await
}

async fn posted(fault: Fault, over: Over) -> legacy::Error {
    let server = Server::start(fault).await.unwrap();
    let error = post(&server, over).await.unwrap_err();
    assert_eq!(server.connections(), u64::from(fault != Fault::Refused));
    error
}

async fn called(fault: Fault) -> Status {
    let server = Server::start(fault).await.unwrap();
    upsert(&server).await.unwrap_err()
}

async fn upsert(server: &Server) -> Result<UpsertResponse, Status> {
    let batch = UpsertRequest {
        records: vec![Record {
            vector: vec![0.5; 50_000],
            ..Record::default()
        }],
    };
    let answer = grpc_client(server.url()).upsert(batch).await?;
    Ok(answer.into_inner())
}

#[tokio::test]
async fn a_refused_connection() {
    for over in [Http1, Http2] {
        let error = posted(Fault::Refused, over).await;
        assert!(error.is_connect());
        assert_eq!(io_kind(&error), Some(ErrorKind::ConnectionRefused));
    }
    let status = called(Fault::Refused).await;
    assert!(find::<tonic::ConnectError>(&status).is_some());
    assert_eq!(io_kind(&status), Some(ErrorKind::ConnectionRefused));
}

#[tokio::test]
async fn a_reset_on_accept() {
    // the reset may meet the client while it connects, before it writes, or after
    let met = |error: &(dyn Error + 'static)| {
        find::<tonic::ConnectError>(error).is_some()
            || is(error, hyper::Error::is_canceled)
            || is(error, hyper::Error::is_closed)
            || is_lost_connection(error)
    };
    for over in [Http1, Http2] {
        let error = posted(Fault::ResetOnAccept, over).await;
        assert!(error.is_connect() || met(&error), "{error:?}");
    }
    let status = called(Fault::ResetOnAccept).await;
    assert!(met(&status), "{status:?}");
}

#[tokio::test]
async fn a_connection_closed_before_the_response() {
    let error = posted(Fault::CloseBeforeResponse, Http1).await;
    assert!(is(&error, hyper::Error::is_incomplete_message));

    let error = posted(Fault::CloseBeforeResponse, Http2).await;
    assert!(is_lost_connection(&error), "{error:?}");
    let status = called(Fault::CloseBeforeResponse).await;
    assert!(is_lost_connection(&status), "{status:?}");
}

#[tokio::test]
async fn a_connection_reset_before_the_response() {
    let error = posted(Fault::ResetBeforeResponse, Http1).await;
    assert_eq!(io_kind(&error), Some(ErrorKind::ConnectionReset));
    assert!(!is(&error, hyper::Error::is_canceled));

    let error = posted(Fault::ResetBeforeResponse, Http2).await;
    assert!(is_lost_connection(&error), "{error:?}");
    let status = called(Fault::ResetBeforeResponse).await;
    assert!(is_lost_connection(&status), "{status:?}");
}

#[tokio::test]
async fn an_answer_that_is_not_http() {
    let error = posted(Fault::GarbageHead, Http1).await;
    assert!(is(&error, hyper::Error::is_parse));

    // over HTTP/2 it reads as a frame that is too long
    let error = posted(Fault::GarbageHead, Http2).await;
    let status = called(Fault::GarbageHead).await;
    for error in [&error as &(dyn Error + 'static), &status] {
        let error = find::<h2::Error>(error).unwrap();
        assert!(error.is_library() && !error.is_remote());
        assert_eq!(error.reason(), Some(Reason::FRAME_SIZE_ERROR));
    }
}

#[tokio::test]
async fn a_goaway_below_the_request() {
    for reason in [
        Reason::NO_ERROR,
        Reason::INTERNAL_ERROR,
        Reason::ENHANCE_YOUR_CALM,
    ] {
        let error = posted(Fault::GoAway(reason), Http2).await;
        let status = called(Fault::GoAway(reason)).await;
        for error in [&error as &(dyn Error + 'static), &status] {
            let error = find::<h2::Error>(error).unwrap();
            assert!(error.is_go_away() && error.is_remote());
            assert_eq!(error.reason(), Some(reason));
        }
    }
}

#[tokio::test]
async fn a_reset_stream() {
    for reason in [
        Reason::REFUSED_STREAM,
        Reason::CANCEL,
        Reason::INTERNAL_ERROR,
        Reason::ENHANCE_YOUR_CALM,
    ] {
        let error = posted(Fault::ResetStream(reason), Http2).await;
        let status = called(Fault::ResetStream(reason)).await;
        for error in [&error as &(dyn Error + 'static), &status] {
            let error = find::<h2::Error>(error).unwrap();
            assert!(error.is_reset() && error.is_remote());
            assert_eq!(error.reason(), Some(reason));
        }
    }
}

#[tokio::test]
async fn faults_of_http2_answer_505_over_http1() {
    for fault in [
        Fault::GoAway(Reason::NO_ERROR),
        Fault::ResetStream(Reason::CANCEL),
    ] {
        let server = Server::start(fault).await.unwrap();
        let response = post(&server, Http1).await.unwrap();
        assert_eq!(response.status(), StatusCode::HTTP_VERSION_NOT_SUPPORTED);
    }
}

#[tokio::test]
async fn a_hang_reads_and_never_answers() {
    for over in [Http1, Http2] {
        let server = Server::start(Fault::Hang).await.unwrap();
        tokio::select! {
            answer = post(&server, over) => panic!("{answer:?}"),
            () = server.requests_reach(1) => {}
        }
    }
}

#[tokio::test]
async fn a_slow_body_comes_octet_by_octet() {
    for over in [Http1, Http2] {
        let fault = Fault::SlowBody(Duration::from_millis(2));
        let server = Server::start(fault).await.unwrap();
        let mut body = post(&server, over).await.unwrap().into_body();
        let mut frames = Vec::new();
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame.unwrap().into_data() {
                frames.push(data.len());
            }
        }
        assert_eq!(frames.iter().sum::<usize>(), 10);
        assert!(frames.len() > 1, "{frames:?}");
        assert_eq!(upsert(&server).await.unwrap(), UpsertResponse::default());
    }
}

#[tokio::test]
async fn a_connection_closed_mid_body() {
    for over in [Http1, Http2] {
        let server = Server::start(Fault::CloseMidBody).await.unwrap();
        let mut body = post(&server, over).await.unwrap().into_body();
        let half = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(half.len(), 5);
        let error = body.frame().await.unwrap().unwrap_err();
        let kind = match over {
            Http1 => io_kind(&error),
            Http2 => find::<h2::Error>(&error)
                .and_then(h2::Error::get_io)
                .map(io::Error::kind),
        };
        let expected = match over {
            Http1 => ErrorKind::UnexpectedEof,
            Http2 => ErrorKind::BrokenPipe,
        };
        assert_eq!(kind, Some(expected), "{over:?}");
    }
    let status = called(Fault::CloseMidBody).await;
    assert!(find::<h2::Error>(&status).unwrap().is_io());
}

#[tokio::test]
async fn a_fault_for_the_first_requests_only() {
    for fault in [
        Fault::ResetOnAccept,
        Fault::CloseBeforeResponse,
        Fault::ResetBeforeResponse,
        Fault::GarbageHead,
    ] {
        for over in [Http1, Http2] {
            let server = Server::start_for(fault, 2).await.unwrap();
            post(&server, over).await.unwrap_err();
            upsert(&server).await.unwrap_err();
            assert_eq!(post(&server, over).await.unwrap().status(), StatusCode::OK);
            assert_eq!(upsert(&server).await.unwrap(), UpsertResponse::default());
            assert_eq!(server.connections(), 4);
        }
    }
}

#[tokio::test]
async fn a_connection_outlives_a_refused_stream() {
    let fault = Fault::ResetStream(Reason::REFUSED_STREAM);
    let server = Server::start_for(fault, 1).await.unwrap();
    let mut client = grpc_client(server.url());
    client.upsert(UpsertRequest::default()).await.unwrap_err();
    client.upsert(UpsertRequest::default()).await.unwrap();
    assert_eq!((server.connections(), server.requests()), (1, 2));
}

#[tokio::test]
async fn a_healed_server_answers() {
    for fault in [
        Fault::Refused,
        Fault::CloseBeforeResponse,
        Fault::GoAway(Reason::NO_ERROR),
    ] {
        let server = Server::start(fault).await.unwrap();
        post(&server, Http2).await.unwrap_err();
        server.heal().unwrap();
        server.heal().unwrap();
        for over in [Http1, Http2] {
            assert_eq!(post(&server, over).await.unwrap().status(), StatusCode::OK);
        }
    }
}

#[tokio::test]
async fn chunked_requests_are_read_whole() {
    let server = Server::start_for(Fault::CloseBeforeResponse, 1)
        .await
        .unwrap();
    let client = Client::builder(TokioExecutor::new()).build_http();
    for expected in [None, Some(StatusCode::OK), Some(StatusCode::OK)] {
        // a stream's length is not known, so hyper sends it in chunks
        let chunks = (0..50)
            .map(|_| Ok::<_, io::Error>(hyper::body::Frame::data(Bytes::from(vec![b'x'; 5_000]))));
        let body = http_body_util::StreamBody::new(tokio_stream::iter(chunks));
        let answer = client
            .request(Request::post(server.url()).body(body).unwrap())
            .await;
        match answer {
            Ok(response) => assert_eq!(Some(response.status()), expected),
            Err(error) => {
                assert_eq!(expected, None);
                assert!(is(&error, hyper::Error::is_incomplete_message), "{error:?}");
            }
        }
    }
    assert_eq!(server.requests(), 3);
}
