use std::{net::SocketAddr, pin::Pin, time::SystemTime};

use tests::{client::channel, wait::within};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_stream::{Stream, StreamExt, wrappers::TcpListenerStream};
use tonic::{
    Code, Request, Response, Status, Streaming,
    metadata::MetadataValue,
    transport::{Channel, Server},
};
use tower::ServiceBuilder;
use tower_weir::{
    Weir,
    outcome::{HintSource, hint::HintParser},
    retry::RetryLayer,
    server::{AdmissionLayer, Class, ClassTable, Delayed},
};
use tower_weir_testkit::proto::{
    FetchRequest, QueryRequest, QueryResponse, Record, UpsertRequest, UpsertResponse,
    vector_index_client::VectorIndexClient,
    vector_index_server::{VectorIndex, VectorIndexServer},
};

use crate::house::{House, LATE, until_pending};

type Records<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn answer<Q, A>(request: &Request<Q>, answer: A) -> Response<A> {
    let mut response = Response::new(answer);
    if request.extensions().get::<Delayed>().is_some() {
        let late = MetadataValue::from_static("yes");
        response.metadata_mut().insert(LATE, late);
    }
    response
}

#[tonic::async_trait]
impl VectorIndex for House {
    async fn upsert(
        &self,
        request: Request<UpsertRequest>,
    ) -> Result<Response<UpsertResponse>, Status> {
        self.stay().await;
        Ok(answer(&request, UpsertResponse { accepted: 1 }))
    }

    async fn query(
        &self,
        request: Request<QueryRequest>,
    ) -> Result<Response<QueryResponse>, Status> {
        Ok(answer(&request, QueryResponse::default()))
    }

    type FetchStream = Records<Record>;

    /// One record at once, and another when it is let out.
    async fn fetch(&self, _: Request<FetchRequest>) -> Result<Response<Records<Record>>, Status> {
        let house = self.clone();
        let records = tokio_stream::iter([false, true]).then(move |last| {
            let house = house.clone();
            async move {
                if last {
                    house.stay().await;
                }
                Ok(Record::default())
            }
        });
        Ok(Response::new(Box::pin(records)))
    }

    async fn upsert_stream(
        &self,
        request: Request<Streaming<UpsertRequest>>,
    ) -> Result<Response<UpsertResponse>, Status> {
        let mut batches = request.into_inner();
        let mut sum = UpsertResponse::default();
        while batches.message().await?.is_some() {
            sum.accepted += 1;
        }
        Ok(Response::new(sum))
    }

    type SyncStream = Records<UpsertResponse>;

    async fn sync(
        &self,
        request: Request<Streaming<UpsertRequest>>,
    ) -> Result<Response<Records<UpsertResponse>>, Status> {
        let answers = request
            .into_inner()
            .map(|batch| batch.map(|_| UpsertResponse { accepted: 1 }));
        Ok(Response::new(Box::pin(answers)))
    }
}

pub(crate) struct Served {
    pub(crate) addr: SocketAddr,
    _task: JoinSet<()>,
}

pub(crate) async fn serve(layer: AdmissionLayer, house: &House) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let server = Server::builder()
        .layer(layer)
        .add_service(VectorIndexServer::new(house.clone()));
    let mut task = JoinSet::new();
    task.spawn(async move {
        let incoming = TcpListenerStream::new(listener);
        server.serve_with_incoming(incoming).await.unwrap();
    });
    Served { addr, _task: task }
}

impl Served {
    pub(crate) fn channel(&self) -> Channel {
        channel(&format!("http://{}", self.addr))
    }
}

pub(crate) fn layer() -> AdmissionLayer {
    let query = "/tower_weir.testkit.v1.VectorIndex/Query";
    let table = ClassTable::new().on(None, query, Class::EXEMPT).unwrap();
    AdmissionLayer::new().table(table)
}

#[tokio::test]
async fn calls_are_delayed_and_rejected_in_words_that_tonic_understands() {
    let (layer, house) = (layer().throttle_at(1).reject_at(2), House::new());
    let served = serve(layer.clone(), &house).await;
    let client = VectorIndexClient::new(served.channel());
    let mut calls = JoinSet::new();
    for _ in 0..2 {
        let mut client = client.clone();
        calls.spawn(async move { client.upsert(UpsertRequest::default()).await });
    }
    until_pending(&layer, (2, 1)).await;
    let mut client = client;
    let status = within("an answer", client.upsert(UpsertRequest::default()))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    let words = "2 operations are pending, of at most 2: too many for one more";
    assert_eq!(status.message(), words);
    let mut headers = status.metadata().clone().into_headers();
    let told = |headers: &http::HeaderMap| {
        let advice = HintParser::new().parse(headers, SystemTime::now);
        advice.hint().unwrap()
    };
    let pushback = told(&headers);
    assert_eq!(pushback.source, HintSource::Pushback);
    headers.remove("grpc-retry-pushback-ms");
    // tonic takes the details out of the metadata.
    let details = base64(status.details());
    headers.insert("grpc-status-details-bin", details.parse().unwrap());
    let info = told(&headers);
    assert_eq!(
        (info.source, info.delay),
        (HintSource::RetryInfo, pushback.delay)
    );

    within("a query", client.query(QueryRequest::default()))
        .await
        .unwrap();
    house.let_out(2);
    while let Some(call) = within("the calls", calls.join_next()).await {
        assert_eq!(call.unwrap().unwrap().into_inner().accepted, 1);
    }
    until_pending(&layer, (0, 0)).await;
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let chunks = bytes.chunks(3).map(|chunk| {
        let bits = chunk
            .iter()
            .fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - chunk.len()));
        let digits = (0..=chunk.len()).map(|at| ALPHABET[(bits >> (18 - 6 * at)) as usize & 63]);
        digits.map(char::from).collect::<String>()
    });
    chunks.collect()
}

#[tokio::test]
async fn calls_count_as_bodies_that_do_not_say_their_size() {
    let layer = layer().limits(|limits| limits.max_bytes = Some(100_000));
    let house = House::new();
    let served = serve(layer.clone(), &house).await;
    let client = VectorIndexClient::new(served.channel());
    let first = {
        let mut client = client.clone();
        tokio::spawn(async move { client.upsert(UpsertRequest::default()).await })
    };
    until_pending(&layer, (1, 0)).await;
    assert_eq!(layer.snapshot()[0].classes[0].bytes, 65_535);
    let mut client = client;
    let status = within("a rejection", client.upsert(UpsertRequest::default()))
        .await
        .unwrap_err();
    let words = "the pending operations have 65535 bytes, of at most 100000: too many for this one";
    assert_eq!(status.message(), words);
    house.let_out(1);
    within("the first", first).await.unwrap().unwrap();
}

#[tokio::test]
async fn searches_pass_on_the_connection_of_many_writes_that_wait() {
    const WRITES: usize = 250;
    let (layer, house) = (layer().throttle_at(1), House::new());
    let served = serve(layer.clone(), &house).await;
    let mut client = VectorIndexClient::new(served.channel());
    let mut writes = JoinSet::new();
    for _ in 0..WRITES {
        let mut client = client.clone();
        writes.spawn(async move { client.upsert(UpsertRequest::default()).await });
    }
    until_pending(&layer, (WRITES, WRITES - 1)).await;
    within("a search", client.query(QueryRequest::default()))
        .await
        .unwrap();
    house.let_out(WRITES);
    for write in within("the writes", writes.join_all()).await {
        write.unwrap();
    }
}

#[tokio::test]
async fn deletes_pass_a_full_storage_and_writes_do_not() {
    // What takes a stream deletes here.
    let path = "/tower_weir.testkit.v1.VectorIndex/UpsertStream";
    let table = ClassTable::new().on(None, path, Class::RECORD.freeing());
    let (layer, house) = (AdmissionLayer::new().table(table.unwrap()), House::new());
    layer.handle().report_storage(0.95);
    let served = serve(layer.clone(), &house).await;
    let mut client = VectorIndexClient::new(served.channel());
    let status = client.upsert(UpsertRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    let words = "the storage is filled to 95.0%: delete something first";
    assert_eq!(status.message(), words);
    let deletes = || tokio_stream::once(UpsertRequest::default());
    let deleted = within("a delete", client.upsert_stream(deletes())).await;
    assert_eq!(deleted.unwrap().into_inner().accepted, 1);
    let rejected = layer.snapshot()[0].class("record").unwrap().rejected;
    assert_eq!((rejected.storage_full, rejected.total()), (1, 1));
    // With room again, writes pass too.
    layer.handle().report_storage(0.94);
    house.let_out(1);
    let written = within("a write", client.upsert(UpsertRequest::default())).await;
    assert_eq!(written.unwrap().into_inner().accepted, 1);
}

#[tokio::test]
async fn our_client_neither_repeats_a_full_storage_nor_shrinks_for_it() {
    let (layer, house) = (layer(), House::new());
    layer.handle().report_storage(1.0);
    let served = serve(layer.clone(), &house).await;
    let weir = Weir::grpc();
    let stack = ServiceBuilder::new()
        .layer(weir.clone())
        .service(served.channel());
    let mut client = VectorIndexClient::new(stack);
    for _ in 0..5 {
        let status = client.upsert(UpsertRequest::default()).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(
            status.metadata().get("grpc-retry-pushback-ms").unwrap(),
            "-1"
        );
    }
    let rejected = layer.snapshot()[0].class("record").unwrap().rejected;
    assert_eq!(rejected.storage_full, 5, "each was sent once");
    let limiter = weir.snapshot()[0].limiter.clone().unwrap();
    assert_eq!((limiter.limit, limiter.cooling), (10, 0));
}

#[tokio::test]
async fn a_retry_waits_for_what_the_server_asks_and_gets_through() {
    let (layer, house) = (layer().throttle_at(1).reject_at(1), House::new());
    let served = serve(layer.clone(), &house).await;
    let stack = ServiceBuilder::new()
        .layer(RetryLayer::grpc())
        .service(served.channel());
    let client = VectorIndexClient::new(stack);
    let mut calls = JoinSet::new();
    for call in 0..2 {
        let mut client = client.clone();
        calls.spawn(async move { client.upsert(UpsertRequest::default()).await });
        if call == 0 {
            until_pending(&layer, (1, 0)).await;
        }
    }
    let rejected = || {
        layer.snapshot()[0]
            .class("record")
            .unwrap()
            .rejected
            .total()
    };
    tests::wait::until("a rejection", || rejected() == 1).await;
    house.let_out(2);
    while let Some(call) = within("the calls", calls.join_next()).await {
        assert_eq!(call.unwrap().unwrap().into_inner().accepted, 1);
    }
    assert_eq!(rejected(), 1);
}
