use http::request::Parts;

use crate::{Repository, access::Principal, protocol::Query};

/// A request to an endpoint of one repository, once its principal is known. Its body is separate.
pub(super) struct RepositoryRequest {
    pub head: Parts,
    pub query: Query,
    pub principal: Principal,
    pub repository: Repository,
}
