use super::{credentials::Credentials, options::ClientOptions, transport::Transport};

/// What all operations of a client share.
pub(super) struct Context {
    pub options: ClientOptions,
    pub transport: Transport,
    pub credentials: Credentials,
}

impl Context {
    pub fn new(options: ClientOptions) -> Self {
        let transport = Transport::new(&options);
        Self { options, transport, credentials: Credentials::default() }
    }
}
