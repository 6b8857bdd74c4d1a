use wstd::http::{Body, Request, Response, StatusCode};

#[wstd::http_server]
async fn main(request: Request<Body>) -> wstd::http::Result<Response<Body>> {
    let text = format!("hello from Rust: {} {}\n", request.method(), request.uri().path());
    let response = Response::builder().status(StatusCode::OK).header("content-type", "text/plain");
    Ok(response.body(text.into())?)
}
