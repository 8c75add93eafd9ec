use std::{convert::Infallible, pin::Pin, sync::Arc};

use hyper::body::Incoming;
use tokio_stream::{self as stream, Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming, body::Body};
use tower_service::Service;

use super::{
    LARGEST_BODY,
    engine::{Engine, Order},
    phase::Answer,
};
use crate::proto::{
    FetchRequest, QueryRequest, QueryResponse, Record, UpsertRequest, UpsertResponse,
    vector_index_server::{VectorIndex, VectorIndexServer},
};

/// Answers a gRPC request that carries its order.
pub(super) async fn call(
    engine: Arc<Engine>,
    request: http::Request<Incoming>,
) -> http::Response<Body> {
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
        let millis = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        let pushback = "grpc-retry-pushback-ms";
        status.metadata_mut().insert(pushback, millis.into());
    }
    status
}

struct Index {
    engine: Arc<Engine>,
}

impl Index {
    /// Takes the call's slot for the time of its service. A call's streams are
    /// outside of it.
    async fn serve<T>(&self, request: &Request<T>, ids: Vec<String>) -> Result<(), Status> {
        let order = request.extensions().get::<Arc<Order>>();
        let order = order.ok_or_else(|| Status::internal("the call has no order"))?;
        let place = self.engine.admit(order).await;
        place
            .map_err(|refused| status(&refused))?
            .serve(order, ids)
            .await;
        Ok(())
    }
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
