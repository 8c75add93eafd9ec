use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::HeaderMap;
use hyper::body::Incoming;
use tokio_stream::{self as stream, Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming, body::Body};
use tower_service::Service;

use super::{
    LARGEST_BODY,
    engine::{Engine, Order, Place},
    phase::Answer,
    throttle,
};
use crate::proto::{
    FetchRequest, QueryRequest, QueryResponse, Record, UpsertRequest, UpsertResponse,
    vector_index_server::{VectorIndex, VectorIndexServer},
};

pub(super) const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// A call with its slot, until that is used.
#[derive(Debug)]
struct Call {
    order: Arc<Order>,
    place: Mutex<Option<Place>>,
}

/// Answers a gRPC request.
pub(super) async fn call(
    engine: Arc<Engine>,
    order: &Arc<Order>,
    mut request: http::Request<Incoming>,
) -> http::Response<Body> {
    let place = match engine.admit(request.headers()).await {
        Ok(place) => Mutex::new(Some(place)),
        Err(rejected) => return throttle::worded(rejected, order.refusal()),
    };
    let order = Arc::clone(order);
    request
        .extensions_mut()
        .insert(Arc::new(Call { order, place }));
    let mut server =
        VectorIndexServer::new(Index { engine }).max_decoding_message_size(LARGEST_BODY);
    let answered: Result<_, Infallible> = server.call(request).await;
    answered.unwrap_or_else(|never| match never {})
}

/// The answer as gRPC says it: with no message before it, tonic sends it as
/// Trailers-Only.
pub(super) fn status(answer: &Answer) -> Status {
    let mut status = Status::new(answer.code(), answer.http.as_str());
    if let Some(after) = answer.retry_after {
        status.metadata_mut().insert(PUSHBACK, millis(after).into());
    }
    status
}

/// Says how long to stay away.
pub(super) fn push_back(headers: &mut HeaderMap, after: Duration) {
    headers.insert(PUSHBACK, millis(after).into());
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

struct Index {
    engine: Arc<Engine>,
}

impl Index {
    /// Takes the call's slot for the time of its service. A call's streams are
    /// outside of it.
    async fn serve<T>(&self, request: &Request<T>, ids: Vec<String>) -> Result<(), Status> {
        let call = request.extensions().get::<Arc<Call>>();
        let place = call.and_then(|call| Some((call, lock(&call.place).take()?)));
        let (call, place) = place.ok_or_else(|| Status::internal("the call has no slot"))?;
        place.serve(&call.order, ids).await;
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn ids(records: Vec<Record>) -> Vec<String> {
    records.into_iter().map(|record| record.id).collect()
}

fn accepted(ids: usize) -> UpsertResponse {
    UpsertResponse {
        accepted: ids as u64,
    }
}

fn store(engine: &Engine, batch: UpsertRequest) -> UpsertResponse {
    let ids = ids(batch.records);
    let accepted = accepted(ids.len());
    engine.store(ids);
    accepted
}

type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl VectorIndex for Index {
    async fn upsert(
        &self,
        mut request: Request<UpsertRequest>,
    ) -> Result<Response<UpsertResponse>, Status> {
        let ids = ids(std::mem::take(&mut request.get_mut().records));
        let accepted = accepted(ids.len());
        self.serve(&request, ids).await?;
        Ok(Response::new(accepted))
    }

    async fn query(
        &self,
        request: Request<QueryRequest>,
    ) -> Result<Response<QueryResponse>, Status> {
        self.serve(&request, Vec::new()).await?;
        let ids = self.engine.ids(request.into_inner().limit as usize);
        Ok(Response::new(QueryResponse { ids }))
    }

    type FetchStream = BoxStream<Record>;

    async fn fetch(
        &self,
        request: Request<FetchRequest>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        self.serve(&request, Vec::new()).await?;
        let mut ids = request.into_inner().ids;
        ids.retain(|id| self.engine.stored(id) > 0);
        let records = ids.into_iter().map(|id| {
            Ok(Record {
                id,
                ..Record::default()
            })
        });
        Ok(Response::new(Box::pin(stream::iter(records))))
    }

    async fn upsert_stream(
        &self,
        request: Request<Streaming<UpsertRequest>>,
    ) -> Result<Response<UpsertResponse>, Status> {
        self.serve(&request, Vec::new()).await?;
        let mut batches = request.into_inner();
        let mut sum = UpsertResponse::default();
        while let Some(batch) = batches.message().await? {
            sum.accepted += store(&self.engine, batch).accepted;
        }
        Ok(Response::new(sum))
    }

    type SyncStream = BoxStream<UpsertResponse>;

    async fn sync(
        &self,
        request: Request<Streaming<UpsertRequest>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        self.serve(&request, Vec::new()).await?;
        let engine = Arc::clone(&self.engine);
        let answers = request
            .into_inner()
            .map(move |batch| batch.map(|batch| store(&engine, batch)));
        Ok(Response::new(Box::pin(answers)))
    }
}
