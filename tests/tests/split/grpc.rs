//! Over tonic's generated client.

use std::ops::Range;

use prost::Message;
use tests::{client::channel, wait::within};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Status, Streaming};
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
use tower_weir::{
    Weir,
    outcome::GrpcCode,
    split::{PartialFailure, Split, SplitLayer, Undelivered, merge_fn},
};
use tower_weir_testkit::proto::{
    FetchRequest, QueryRequest, QueryResponse, Record, UpsertRequest, UpsertResponse,
    vector_index_client::VectorIndexClient,
    vector_index_server::{VectorIndex, VectorIndexServer},
};

use super::Index;

/// tonic's messages are not ours: a request for them.
#[derive(Clone, Debug)]
struct Upsert(UpsertRequest);

impl Split for Upsert {
    type Kept = Self;

    fn keep(&self) -> Self {
        self.clone()
    }

    fn count(kept: &mut Self) -> usize {
        kept.0.records.len()
    }

    fn part(kept: &Self, items: Range<usize>) -> Self {
        Self(UpsertRequest {
            records: kept.0.records[items].to_vec(),
        })
    }

    fn encoded_len(kept: &Self, items: Range<usize>) -> Option<usize> {
        Some(Self::part(kept, items).0.encoded_len())
    }
}

type Nothing<T> = tokio_stream::Empty<Result<T, Status>>;

#[tonic::async_trait]
impl VectorIndex for Index {
    async fn upsert(
        &self,
        request: tonic::Request<UpsertRequest>,
    ) -> Result<tonic::Response<UpsertResponse>, Status> {
        let records = request.into_inner().records;
        let ids: Vec<usize> = records.iter().map(|r| r.id.parse().unwrap()).collect();
        let mut seen = self.seen.lock().unwrap();
        seen.judged += 1;
        if ids.iter().any(|id| self.bad.contains(id)) {
            return Err(Status::invalid_argument("a record"));
        }
        seen.stored.extend(&ids);
        let accepted = ids.len() as u64;
        Ok(tonic::Response::new(UpsertResponse { accepted }))
    }

    async fn query(
        &self,
        _: tonic::Request<QueryRequest>,
    ) -> Result<tonic::Response<QueryResponse>, Status> {
        Err(Status::unimplemented("query"))
    }

    type FetchStream = Nothing<Record>;

    async fn fetch(
        &self,
        _: tonic::Request<FetchRequest>,
    ) -> Result<tonic::Response<Self::FetchStream>, Status> {
        Err(Status::unimplemented("fetch"))
    }

    async fn upsert_stream(
        &self,
        _: tonic::Request<Streaming<UpsertRequest>>,
    ) -> Result<tonic::Response<UpsertResponse>, Status> {
        Err(Status::unimplemented("upsert_stream"))
    }

    type SyncStream = Nothing<UpsertResponse>;

    async fn sync(
        &self,
        _: tonic::Request<Streaming<UpsertRequest>>,
    ) -> Result<tonic::Response<Self::SyncStream>, Status> {
        Err(Status::unimplemented("sync"))
    }
}

fn record(id: usize) -> Record {
    Record {
        id: format!("{id:03}"),
        ..Record::default()
    }
}

fn added(stored: Vec<tonic::Response<UpsertResponse>>) -> tonic::Response<UpsertResponse> {
    let each = stored.into_iter().map(tonic::Response::into_inner);
    let accepted = each.map(|stored| stored.accepted).sum();
    tonic::Response::new(UpsertResponse { accepted })
}

async fn start(service: VectorIndexServer<Index>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    url
}

#[tokio::test]
async fn messages_too_large_for_tonic_go_in_parts() {
    // Three characters, and two bytes each of the field and of the message.
    let hundred = 100 * 7;
    let index = Index::with([5, 200, 470]);
    let url = start(VectorIndexServer::new(index.clone()).max_decoding_message_size(hundred)).await;

    let stack = ServiceBuilder::new()
        .layer(Weir::grpc())
        .service(channel(&url));
    let upserts = VectorIndexClient::new(stack);
    let mut client = ServiceBuilder::new()
        .layer(SplitLayer::grpc(merge_fn(added)).split_on_codes([GrpcCode::InvalidArgument]))
        .service(service_fn(move |Upsert(batch)| {
            let mut upserts = upserts.clone();
            async move { upserts.upsert(batch).await }
        }));
    let whole = Upsert(UpsertRequest {
        records: (6..199).map(record).collect(),
    });
    let ready = client.ready().await.unwrap();
    let stored = within("a good batch", ready.call(whole)).await.unwrap();
    assert_eq!(stored.get_ref().accepted, 193);
    index.take();

    let whole = Upsert(UpsertRequest {
        records: (0..512).map(record).collect(),
    });
    let ready = client.ready().await.unwrap();
    let error = within("the batch", ready.call(whole)).await.unwrap_err();
    let partial: Box<PartialFailure> = error.downcast().unwrap();
    assert!(partial.failed_items().eq([5, 200, 470]));
    let seen = index.take();
    assert_eq!(seen.stored.len(), 509);
    // Those that were too large never came as far as here.
    assert!(seen.judged <= 51 - 6, "{}", seen.judged);
    let parts = partial.into_parts::<tonic::Response<UpsertResponse>>();
    let failed = parts.unwrap().failed;
    assert_eq!(failed.len(), 3);
    for (_, why) in failed {
        let Undelivered::Error(error) = why else {
            panic!("{why:?}");
        };
        let status = error.downcast::<Status>().unwrap();
        assert_eq!(status.code(), Code::InvalidArgument);
    }
}

/// All four sides have a limit, and only one of them says that nothing was done:
/// what tonic's server says of a request, its client says of an answer.
#[tokio::test]
async fn an_answer_that_is_too_large_for_tonic_is_no_request_that_is() {
    // A message with two records, or its answer: the number of them.
    for (limited, code, stored, when_safe) in [
        (Limit::RequestSent, Code::Internal, 0, 0),
        (Limit::RequestReceived, Code::Ok, 2, 2),
        (Limit::AnswerSent, Code::OutOfRange, 2, 4),
        (Limit::AnswerReceived, Code::OutOfRange, 2, 4),
    ] {
        for safe in [false, true] {
            let index = Index::default();
            let mut server = VectorIndexServer::new(index.clone());
            match limited {
                Limit::RequestReceived => server = server.max_decoding_message_size(7),
                Limit::AnswerSent => server = server.max_encoding_message_size(1),
                Limit::RequestSent | Limit::AnswerReceived => {}
            }
            let mut upserts = VectorIndexClient::new(channel(&start(server).await));
            match limited {
                Limit::RequestSent => upserts = upserts.max_encoding_message_size(7),
                Limit::AnswerReceived => upserts = upserts.max_decoding_message_size(1),
                Limit::RequestReceived | Limit::AnswerSent => {}
            }
            let layer = SplitLayer::grpc(merge_fn(added));
            let client = ServiceBuilder::new()
                .layer(if safe { layer.any_method() } else { layer })
                .service(service_fn(move |Upsert(batch)| {
                    let mut upserts = upserts.clone();
                    async move { upserts.upsert(batch).await }
                }));
            let whole = Upsert(UpsertRequest {
                records: (0..2).map(record).collect(),
            });
            let result = within("the batch", client.oneshot(whole)).await;
            let expected = if safe { when_safe } else { stored };
            assert_eq!(index.take().stored.len(), expected, "{limited:?}, {safe}");
            let came = match result {
                Ok(_) => Code::Ok,
                Err(error) => match error.downcast::<Status>() {
                    Ok(status) => status.code(),
                    // Each part by itself fares no better.
                    Err(error) => {
                        assert!(safe && error.is::<PartialFailure>(), "{error}");
                        code
                    }
                },
            };
            assert_eq!(came, code, "{limited:?}, {safe}");
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Limit {
    RequestSent,
    RequestReceived,
    AnswerSent,
    AnswerReceived,
}
