//! The server's layer, around a service and around axum's router.

use axum::{Router, extract::Request, routing::post};
use http::Method;
use tower::{ServiceBuilder, util::MapRequestLayer};
use tower_weir::server::{AdmissionLayer, Class, ClassTable, InvalidPattern};

use super::{
    Subject,
    web::{self, Page},
};

/// A layer that does nothing. axum boxes what any layer makes: what that costs
/// is not the layer's.
macro_rules! nothing {
    ($request:ty) => {
        MapRequestLayer::new(|request: $request| request)
    };
}

/// Two patterns that do not match, and one that may.
fn table() -> Result<ClassTable, InvalidPattern> {
    ClassTable::new()
        .on(Method::POST, "/indexes/{index}/query", Class::EXEMPT)?
        .on(Method::POST, "/indexes/{index}/clear", Class::STRUCTURAL)
}

fn exempt() -> Result<ClassTable, InvalidPattern> {
    table()?.on(None, "/collections/{*rest}", Class::EXEMPT)
}

pub(super) fn all() -> Vec<Subject> {
    let admission = AdmissionLayer::new;
    let tabled = admission().table(table().expect("patterns that mean something"));
    let exempt = admission().table(exempt().expect("patterns that mean something"));
    macro_rules! served {
        ($name:literal, $layer:expr) => {
            web::subject(
                concat!("server: ", $name),
                ServiceBuilder::new().layer($layer).service(web::inner()),
            )
        };
    }
    let handler = async || "stored";
    let routes = || Router::new().route("/collections/docs/points", post(handler));
    // As `axum::serve` does it, or the layers were laid anew for each request.
    let serve = |router: Router| router.with_state::<()>(());
    vec![
        web::subject("server: bare", web::inner()),
        served!("a layer that does nothing", nothing!(http::Request<Page>)),
        served!("admission", admission()),
        served!("admission, two patterns", tabled),
        served!("admission, exempt", exempt.clone()),
        web::subject("axum: bare", serve(routes())),
        web::subject(
            "axum: a layer that does nothing",
            serve(routes().layer(nothing!(Request))),
        ),
        web::subject("axum: admission", serve(routes().layer(admission()))),
        web::subject("axum: admission, exempt", serve(routes().layer(exempt))),
    ]
}
