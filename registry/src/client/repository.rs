use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use spec::{Descriptor, Digest, MediaType, Reference};

use super::{
    graph::Resolved,
    session::{Call, Session, Target},
};
use crate::{
    Error, ProtocolFault,
    limits::{MANIFEST_BYTES_MAX, TAG_PAGE_BYTES_MAX, TAG_PAGES_MAX},
    protocol::{DeclaredMediaType, TagList, encode_query},
};

/// What manifests a client takes.
const ACCEPTED: [&str; 5] = [
    MediaType::OCI_INDEX,
    MediaType::OCI_MANIFEST,
    MediaType::DOCKER_INDEX,
    MediaType::DOCKER_MANIFEST,
    "application/json;q=0.5",
];

/// A repository of a registry, with the right to do something in it.
pub(super) struct RemoteRepository<'a> {
    pub session: Session<'a>,
    pub name: String,
}

impl RemoteRepository<'_> {
    /// The address of `rest` below this repository.
    pub fn target(&self, rest: &str) -> Target {
        Target::Path(format!("/v2/{}/{rest}", self.name))
    }

    /// A tag or a digest of this repository, as it is named in errors.
    pub fn subject(&self, target: &str) -> String {
        let separator = if target.contains(':') { '@' } else { ':' };
        format!("{}{separator}{target}", self.name)
    }

    /// The manifest or index that `target`, a tag or a digest, points to.
    pub async fn manifest(&self, target: &str) -> Result<Resolved, Error> {
        let subject = self.subject(target);
        let call = Call::get(self.target(&format!("manifests/{target}")), &subject)
            .header(header::ACCEPT, ACCEPTED.join(", "));
        let response = self.session.follow(call).await?;
        let response = self.session.expect(&subject, response, &[StatusCode::OK]).await?;
        let headers = response.headers().clone();
        let bytes = self.session.read(&subject, response, MANIFEST_BYTES_MAX as usize).await?;
        let expected = target.parse().ok().or_else(|| announced_digest(&headers));
        let digest = match expected {
            None => Digest::of(&bytes),
            Some(expected) => match expected.algorithm().digest(&bytes) {
                actual if actual == expected => actual,
                actual => return Err(self.session.wrong_digest(expected, actual)),
            },
        };
        // The document is covered by the digest, the header is not.
        let media_type = DeclaredMediaType::of(&bytes)
            .or_else(|| content_type(&headers))
            .unwrap_or_else(|| MediaType::OCI_MANIFEST.into());
        let mut descriptor = Descriptor::of(MediaType::OCI_MANIFEST, &bytes);
        (descriptor.media_type, descriptor.digest) = (media_type, digest);
        Ok(Resolved { descriptor, bytes })
    }

    /// The digest of what `target` points to, when the registry states it. No byte of it is sent.
    pub async fn digest(&self, target: &str) -> Result<Option<Digest>, Error> {
        let subject = self.subject(target);
        let call = Call::new(Method::HEAD, self.target(&format!("manifests/{target}")), &subject)
            .header(header::ACCEPT, ACCEPTED.join(", "));
        let response = self.session.call(call).await?;
        match response.status().is_redirection() {
            true => Ok(None),
            false => {
                let response = self.session.expect(&subject, response, &[StatusCode::OK]).await?;
                Ok(announced_digest(response.headers()))
            }
        }
    }

    /// Deletes a tag or a manifest, if it is there.
    pub async fn delete(&self, target: &str) -> Result<(), Error> {
        let subject = self.subject(target);
        let target = self.target(&format!("manifests/{target}"));
        let deleted = [StatusCode::ACCEPTED, StatusCode::OK, StatusCode::NO_CONTENT];
        match self.session.call_for(Call::new(Method::DELETE, target, &subject), &deleted).await {
            Ok(_) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub async fn put_manifest(&self, target: &str, manifest: &Resolved) -> Result<(), Error> {
        let subject = self.subject(target);
        let target = self.target(&format!("manifests/{target}"));
        let call = Call::new(Method::PUT, target, &subject)
            .header(header::CONTENT_TYPE, manifest.descriptor.media_type.as_str())
            .bytes(manifest.bytes.clone());
        self.session.call_for(call, &[StatusCode::CREATED]).await.map(drop)
    }

    /// All tags, in the registry's order.
    pub async fn tags(&self) -> Result<Vec<String>, Error> {
        let mut tags: Vec<String> = Vec::new();
        for _ in 0..TAG_PAGES_MAX {
            let last = tags.last().map(|last| format!("&last={}", encode_query(last)));
            let target = self.target(&format!("tags/list?n=1000{}", last.unwrap_or_default()));
            let call = Call::get(target, &self.name);
            let response = self.session.call_for(call, &[StatusCode::OK]).await?;
            let more = response.headers().contains_key(header::LINK);
            let bytes: Bytes = self.session.read(&self.name, response, TAG_PAGE_BYTES_MAX).await?;
            let page: TagList = serde_json::from_slice(&bytes).map_err(|source| {
                self.session.fault(ProtocolFault::Json { what: "list of tags", source })
            })?;
            let page = page.tags.unwrap_or_default();
            let is_last = page.is_empty() || !more;
            tags.extend(page.into_iter().filter(|tag| Reference::is_tag(tag)));
            if is_last {
                break;
            }
        }
        Ok(tags)
    }
}

fn announced_digest(headers: &HeaderMap) -> Option<Digest> {
    headers.get("docker-content-digest")?.to_str().ok()?.parse().ok()
}

fn content_type(headers: &HeaderMap) -> Option<MediaType> {
    headers.get(header::CONTENT_TYPE)?.to_str().ok()?.split(';').next()?.trim().parse().ok()
}
