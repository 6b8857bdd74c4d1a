use std::fmt;

use http::{Method, StatusCode, header};
use spec::{Digest, NodeId, Reference};

use super::error::{ApiError, ErrorCode};
use crate::{
    Action, Repository,
    protocol::{ADMIN, MACHINES},
};

/// The endpoint of a request, read from its method and path and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    /// Whether this is a registry that accepts the client's token.
    Ping,
    /// Whether the process works, for its supervisor.
    Health,
    /// `GET` with Basic, or `POST` with a form.
    Token,
    Catalog,
    /// Takes back the tokens of a machine.
    Machine(NodeId),
    /// A request to the administrator's API, as its path there.
    Admin(String),
    Repository(Repository, Endpoint),
}

/// An endpoint of one repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Endpoint {
    ListTags,
    ListReferrers(Digest),
    ReadManifest(Target),
    PutManifest(Target),
    DeleteManifest(Target),
    ReadBlob(Digest),
    DeleteBlob(Digest),
    BeginUpload,
    ReadUpload(String),
    AppendUpload(String),
    FinishUpload(String),
    CancelUpload(String),
}

/// How a manifest is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    Tag(String),
    Digest(Digest),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

impl Endpoint {
    /// The actions of which a principal needs one, the usual one first: the only list of them.
    pub fn actions(&self) -> &'static [Action] {
        match self {
            Self::ListTags | Self::ListReferrers(_) | Self::ReadManifest(_) | Self::ReadBlob(_) => {
                &[Action::Pull]
            }
            // Which of them depends on what is there: a manifest that is can have a tag more.
            Self::PutManifest(_) => &[Action::Push, Action::TagCreate, Action::TagOverwrite],
            Self::BeginUpload
            | Self::ReadUpload(_)
            | Self::AppendUpload(_)
            | Self::FinishUpload(_)
            | Self::CancelUpload(_) => &[Action::Push],
            Self::DeleteManifest(_) | Self::DeleteBlob(_) => &[Action::Delete],
        }
    }
}

impl Route {
    /// # Spec
    /// OCI distribution-spec 1.1, "Endpoints".
    pub fn parse(method: &Method, path: &str) -> Result<Self, ApiError> {
        let reads = [Method::GET, Method::HEAD];
        match path {
            "/v2/" | "/v2" => return allowed(method, &reads, Self::Ping),
            "/healthz" => return allowed(method, &reads, Self::Health),
            "/token" => return allowed(method, &[Method::GET, Method::POST], Self::Token),
            "/v2/_catalog" => return allowed(method, &reads, Self::Catalog),
            _ => {}
        }
        if let Some(name) = path.strip_prefix(MACHINES) {
            let name = name.parse().map_err(ApiError::invalid_name)?;
            return allowed(method, &[Method::DELETE], Self::Machine(name));
        }
        if let Some(rest) = path.strip_prefix(ADMIN) {
            let methods = [Method::GET, Method::PUT, Method::POST, Method::DELETE];
            return allowed(method, &methods, Self::Admin(format!("/admin/{rest}")));
        }
        let path = path.strip_prefix("/v2/").ok_or_else(ApiError::no_such_endpoint)?;
        // The `:` of a digest is the only character that clients escape. Any other `%` stays, and
        // is then no name.
        let path = path.replace("%3A", ":").replace("%3a", ":");
        let (name, endpoint) = Self::split(method, &path)?;
        let repository = name.parse::<Repository>().map_err(ApiError::invalid_name)?;
        Ok(Self::Repository(repository, endpoint?))
    }

    /// Finds the endpoint from the end of the path, because a name may have slashes.
    fn split<'a>(
        method: &Method,
        path: &'a str,
    ) -> Result<(&'a str, Result<Endpoint, ApiError>), ApiError> {
        if let Some(name) = path.strip_suffix("/tags/list") {
            return Ok((name, allowed(method, &[Method::GET, Method::HEAD], Endpoint::ListTags)));
        }
        if let Some(name) =
            path.strip_suffix("/blobs/uploads/").or_else(|| path.strip_suffix("/blobs/uploads"))
        {
            return Ok((name, allowed(method, &[Method::POST], Endpoint::BeginUpload)));
        }
        let unknown = ApiError::no_such_endpoint;
        let (front, last) = path.rsplit_once('/').ok_or_else(unknown)?;
        if let Some(name) = front.strip_suffix("/blobs/uploads") {
            return Ok((name, upload(method, last)));
        }
        let (name, kind) = front.rsplit_once('/').ok_or_else(unknown)?;
        match kind {
            "manifests" => Ok((name, manifest(method, last))),
            "blobs" => Ok((name, blob(method, last))),
            "referrers" => Ok((
                name,
                parse_digest(last).and_then(|d| {
                    allowed(method, &[Method::GET, Method::HEAD], Endpoint::ListReferrers(d))
                }),
            )),
            _ => Err(unknown()),
        }
    }
}

fn upload(method: &Method, id: &str) -> Result<Endpoint, ApiError> {
    if id.len() != 32 || !id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return Err(ApiError::not_found(ErrorCode::BlobUploadUnknown, "there is no such upload"));
    }
    let id = id.to_owned();
    match *method {
        Method::GET | Method::HEAD => Ok(Endpoint::ReadUpload(id)),
        Method::PATCH => Ok(Endpoint::AppendUpload(id)),
        Method::PUT => Ok(Endpoint::FinishUpload(id)),
        Method::DELETE => Ok(Endpoint::CancelUpload(id)),
        _ => Err(not_allowed("GET, PATCH, PUT, DELETE")),
    }
}

fn manifest(method: &Method, target: &str) -> Result<Endpoint, ApiError> {
    let target = match (target.contains(':'), Reference::is_tag(target)) {
        (true, _) => Target::Digest(parse_digest(target)?),
        (false, true) => Target::Tag(target.to_owned()),
        (false, false) => {
            return Err(ApiError::bad_request(
                ErrorCode::TagInvalid,
                "this is neither a tag nor a digest",
            ));
        }
    };
    match *method {
        Method::GET | Method::HEAD => Ok(Endpoint::ReadManifest(target)),
        Method::PUT => Ok(Endpoint::PutManifest(target)),
        Method::DELETE => Ok(Endpoint::DeleteManifest(target)),
        _ => Err(not_allowed("GET, HEAD, PUT, DELETE")),
    }
}

fn blob(method: &Method, name: &str) -> Result<Endpoint, ApiError> {
    let digest = parse_digest(name)?;
    match *method {
        Method::GET | Method::HEAD => Ok(Endpoint::ReadBlob(digest)),
        Method::DELETE => Ok(Endpoint::DeleteBlob(digest)),
        _ => Err(not_allowed("GET, HEAD, DELETE")),
    }
}

pub(super) fn parse_digest(text: &str) -> Result<Digest, ApiError> {
    text.parse().map_err(ApiError::invalid_digest)
}

fn allowed<T>(method: &Method, methods: &[Method], value: T) -> Result<T, ApiError> {
    match methods.contains(method) {
        true => Ok(value),
        false => {
            Err(not_allowed(&methods.iter().map(Method::as_str).collect::<Vec<_>>().join(", ")))
        }
    }
}

fn not_allowed(methods: &str) -> ApiError {
    let message = format!("the methods of this endpoint are {methods}");
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::Unsupported, message)
        .header(header::ALLOW, methods)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_route_or_an_error() {
        let hex = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
        let sha = format!("sha256:{hex}");
        let id = "0123456789abcdef0123456789abcdef";
        for (request, want) in [
            ("GET /v2/".to_owned(), "Ping".to_owned()),
            ("GET /v2".to_owned(), "Ping".to_owned()),
            ("POST /v2/".to_owned(), "405".to_owned()),
            ("GET /v2/_catalog".to_owned(), "Catalog".to_owned()),
            ("GET /token".to_owned(), "Token".to_owned()),
            ("DELETE /v2/_margay/machines/n1".to_owned(), "Machine(NodeId(\"n1\"))".to_owned()),
            ("GET /v2/_margay/machines/n1".to_owned(), "405".to_owned()),
            ("DELETE /v2/_margay/machines/n1/tags/list".to_owned(), "400".to_owned()),
            ("DELETE /v2/_margay/machines/".to_owned(), "400".to_owned()),
            ("GET /v2/_margay/admin/tags/a/b".to_owned(), "Admin(\"/admin/tags/a/b\")".to_owned()),
            ("PATCH /v2/_margay/admin/users".to_owned(), "405".to_owned()),
            ("GET /v2/a/b/tags/list".to_owned(), "a/b ListTags".to_owned()),
            ("GET /v2/tags/list/tags/list".to_owned(), "tags/list ListTags".to_owned()),
            ("GET /v2/a/manifests/v1".to_owned(), "a ReadManifest(Tag(\"v1\"))".to_owned()),
            (
                "HEAD /v2/manifests/manifests/v1".to_owned(),
                "manifests ReadManifest(Tag(\"v1\"))".to_owned(),
            ),
            (format!("PUT /v2/a/manifests/{sha}"), format!("a PutManifest(Digest({sha}))")),
            (
                format!("GET /v2/a/manifests/sha256%3A{hex}"),
                format!("a ReadManifest(Digest({sha}))"),
            ),
            ("DELETE /v2/a/manifests/v1".to_owned(), "a DeleteManifest(Tag(\"v1\"))".to_owned()),
            (format!("GET /v2/a/b/c/blobs/{sha}"), format!("a/b/c ReadBlob({sha})")),
            ("POST /v2/a/blobs/uploads/".to_owned(), "a BeginUpload".to_owned()),
            ("POST /v2/a/blobs/uploads".to_owned(), "a BeginUpload".to_owned()),
            (
                "POST /v2/a/blobs/uploads/blobs/uploads/".to_owned(),
                "a/blobs/uploads BeginUpload".to_owned(),
            ),
            (format!("PATCH /v2/a/blobs/uploads/{id}"), format!("a AppendUpload(\"{id}\")")),
            ("PATCH /v2/a/blobs/uploads/../../x".to_owned(), "404".to_owned()),
            ("GET /v2/a/blobs/uploads/".to_owned(), "405".to_owned()),
            (format!("GET /v2/a/referrers/{sha}"), format!("a ListReferrers({sha})")),
            ("GET /v2/a/referrers/x".to_owned(), "400".to_owned()),
            ("GET /v2/a/blobs/sha256:00".to_owned(), "400".to_owned()),
            (format!("GET /v2/a/../b/blobs/{sha}"), "400".to_owned()),
            (format!("GET /v2/a%2f..%2fb/blobs/{sha}"), "400".to_owned()),
            (format!("GET /v2/a//b/blobs/{sha}"), "400".to_owned()),
            (format!("GET /v2/A/blobs/{sha}"), "400".to_owned()),
            (format!("GET /v2/_x/blobs/{sha}"), "400".to_owned()),
            (format!("GET /v2//blobs/{sha}"), "400".to_owned()),
            (format!("GET /v2/{}/blobs/{sha}", "a".repeat(300)), "400".to_owned()),
            ("GET /v2/a/manifests/v%201".to_owned(), "400".to_owned()),
            ("GET /v2/a/manifests/.v1".to_owned(), "400".to_owned()),
            ("GET /v2/a/things/v1".to_owned(), "404".to_owned()),
            ("GET /v1/".to_owned(), "404".to_owned()),
            ("GET /".to_owned(), "404".to_owned()),
        ] {
            let (method, path) = request.split_once(' ').unwrap();
            let got = match Route::parse(&method.parse().unwrap(), path) {
                Ok(Route::Repository(repository, endpoint)) => format!("{repository} {endpoint:?}"),
                Ok(route) => format!("{route:?}"),
                Err(error) => error.status().as_str().to_owned(),
            };
            assert_eq!(got, want, "{request}");
        }
    }
}
