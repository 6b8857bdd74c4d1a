use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use rustix::{
    event::{Timespec, epoll},
    io::Errno,
};

use crate::limits::EVENTS_MAX;

pub(crate) use rustix::event::epoll::EventFlags;

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token {
    /// The stream from the process that spawned the shim.
    Supervisor,
    /// The control socket, on which supervisors connect.
    ControlSocket,
    /// A supervisor's connection to it.
    Control(u32),
    /// The container's first process ended.
    Exit,
    /// One of its standard streams.
    Stream(u32),
    /// The listener of a published port.
    Port(u32),
    /// One side of a relayed connection.
    Connection(u32),
    /// The socket of a published port for datagrams.
    Datagrams(u32),
    /// The program's answers to one client of those.
    Session(u32),
    /// The listener by which the ingress brings datagrams.
    FramedPort(u32),
    /// One side of a client's connection there.
    FramedSession(u32),
    /// The socket on which clients of `exec` connect.
    ExecSocket,
    /// The connection of such a client.
    ExecClient(u32),
    /// What a program says before it runs.
    ExecReport(u32),
    /// The program's end.
    ExecExit(u32),
    /// Output of a program whose client is gone.
    ExecOutput(u32),
    /// A listener for what the program connects to.
    Outbound(u32),
    /// One side of such a connection.
    OutboundConnection(u32),
    /// Questions for the addresses of names.
    Resolver,
    /// The supervisor that connects.
    Broker,
}

const KIND_SHIFT: u32 = 32;

impl Token {
    fn to_u64(self) -> u64 {
        let (kind, number) = match self {
            Self::Supervisor => (0, 0),
            Self::ControlSocket => (1, 0),
            Self::Control(number) => (2, number),
            Self::Exit => (3, 0),
            Self::Stream(number) => (4, number),
            Self::Port(number) => (5, number),
            Self::Connection(number) => (6, number),
            Self::ExecSocket => (7, 0),
            Self::ExecClient(number) => (8, number),
            Self::ExecReport(number) => (9, number),
            Self::ExecExit(number) => (10, number),
            Self::ExecOutput(number) => (11, number),
            Self::Datagrams(number) => (12, number),
            Self::Session(number) => (13, number),
            Self::Outbound(number) => (14, number),
            Self::OutboundConnection(number) => (15, number),
            Self::Resolver => (16, 0),
            Self::Broker => (17, 0),
            Self::FramedPort(number) => (18, number),
            Self::FramedSession(number) => (19, number),
        };
        kind << KIND_SHIFT | u64::from(number)
    }

    fn from_u64(value: u64) -> Self {
        let number = value as u32;
        match value >> KIND_SHIFT {
            0 => Self::Supervisor,
            1 => Self::ControlSocket,
            2 => Self::Control(number),
            3 => Self::Exit,
            4 => Self::Stream(number),
            5 => Self::Port(number),
            6 => Self::Connection(number),
            7 => Self::ExecSocket,
            8 => Self::ExecClient(number),
            9 => Self::ExecReport(number),
            10 => Self::ExecExit(number),
            11 => Self::ExecOutput(number),
            12 => Self::Datagrams(number),
            13 => Self::Session(number),
            14 => Self::Outbound(number),
            15 => Self::OutboundConnection(number),
            16 => Self::Resolver,
            17 => Self::Broker,
            18 => Self::FramedPort(number),
            _ => Self::FramedSession(number),
        }
    }
}

/// Waits for many descriptors at once.
pub(crate) struct Poller {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
}

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self { epoll, events: Vec::with_capacity(EVENTS_MAX) })
    }

    pub(crate) fn add(&self, fd: impl AsFd, token: Token, interest: EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token.to_u64()), interest)?)
    }

    pub(crate) fn change(
        &self,
        fd: impl AsFd,
        token: Token,
        interest: EventFlags,
    ) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, fd, epoll::EventData::new_u64(token.to_u64()), interest)?)
    }

    pub(crate) fn remove(&self, fd: impl AsFd) {
        // It fails for a descriptor that is not watched, which is what is wanted.
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// Appends to `events` what happens within `time_max`.
    pub(crate) fn wait(
        &mut self,
        time_max: Duration,
        events: &mut VecDeque<(Token, EventFlags)>,
    ) -> io::Result<()> {
        let timeout = Timespec::try_from(time_max).map_err(io::Error::other)?;
        self.events.clear();
        match epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut self.events),
            Some(&timeout),
        ) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        events.extend(
            self.events.drain(..).map(|event| (Token::from_u64(event.data.u64()), event.flags)),
        );
        Ok(())
    }
}
