//! Journeys: what a user does, through the real binary, in a home of its own, with guests from
//! `samples/`.
#![allow(clippy::too_many_lines, reason = "tables of cases")]

mod stage; // a home, the binary, and the checks at the end
mod recipe; // pages whose commands run as they stand
mod layout; // images that margay's builder would not make

mod modules; // which module of a crate uses which
mod structure; // arrows, circles, sizes, words and versions
mod words; // help, completions, doctor, messages for misuse
mod images; // build, tag, list, save, import, remove
mod views; // lists, templates, filters, events, volumes and groups
mod layers; // images of other builders: what is loaded, and how it is named
mod build_flags; // what comes through standard input, names, labels, arguments
mod commands; // run a command: arguments, codes, environment, stdin
mod grants; // what an image asks for and gets
mod pages; // run a server: ports, background, logs, stop
mod http; // hostile requests
mod certificates; // in files that are renewed
mod proxies; // in front of registry and ingress
mod registry; // login, push, pull
mod registry_admin; // what its operator does
mod registry_scans; // which software and vulnerabilities images have
mod registry_images; // what images are, there and beside each other
mod signatures; // images that are signed, and those that have to be
mod registry_webhooks; // what is told of them
mod registry_replications; // what goes to other registries
mod registry_upstreams; // what is fetched when it is pulled
mod registry_remote; // what operators and users do from another machine
mod audit; // what was done on a platform
mod credentials; // control plane and registry: made, used, rotated, removed
mod up; // a platform for a journey
mod platform; // up, cluster, task, service, ingress, and processes that are killed
mod descriptors; // which files each process has open, and why
mod down; // the end of a platform, by another command
mod background; // a platform without a terminal, and as a service of systemd
mod reboot; // what comes back when the machine has started again
mod rollouts; // another revision under load, and replicas that freeze
mod usage; // in a period
mod restarts; // of containers by their definition, and the size of tasks
mod traffic; // requests that go over to another revision in shares
mod services; // waited for, shown, and runs that are changed
mod acme; // certificates from an authority that asks the ingress
mod anywhere; // logs, programs and connections of tasks on any node, with a credential alone
mod seen; // the access log, ids and pages of errors
mod hosts; // names of services and tasks
mod service_names; // services that call each other
mod network; // machines in namespaces, on one bridge
mod three_nodes; // killed, cut off, drained
mod three_rollouts; // another revision while one is lost
mod nodes; // join, drain, remove, adopt
mod node_rollout; // an upgrade of agents
mod node_groups; // nodes that come and go with tasks
mod node_problems; // what is wrong with a node
mod placement; // which nodes services go to, and what an operator says of nodes
mod pool; // what the shared pool gives at most
mod hardening; // what each process may, and what one that was taken over gets
mod secrets; // from a file to a guest, and nowhere else
mod run_flags; // Docker's flags of `run`, for both kinds of images
mod guides; // the pages of five languages, followed to the letter
mod apps; // the samples in five languages
mod languages; // init, dev, and folders that are not built yet
mod layer4; // Redis as a service
mod layer4_datagrams; // a server of datagrams as a service
mod rootless; // Linux images of an ordinary user
mod subordinate; // tasks of an ordinary user, each a user of its own
mod inside; // a container of another engine
mod homes; // homes that cannot be used
mod planted; // files of a home that are something else
mod first_day; // what is typed for Docker and means something else
mod interrupted; // verbs that a signal ends in the middle
mod bad_input; // what is refused, and with which message
mod native; // Linux images
mod pipelines; // Linux programs between others in a shell
mod shares; // of one address, of a published port
mod foreground; // a task that takes input from this terminal and others
mod life; // create, start, restart, kill, wait, rename
mod stops; // with which signal and within which time a task ends
mod servers; // stock servers from Debian's packages
mod edge; // HTTP/2, upgrades and certificates of hosts at the ingress
mod wake; // a service that a request brings back from no copies
mod native_outbound; // what Linux images connect to
mod bad_copies; // copies that die after the gate, and updates that meet
mod exec; // another program in a task that runs
mod hostile_exec; // and guests that attack it
mod health; // whether a program is well, as its check says
mod init; // process 1 of a Linux task that asks for one
mod datagrams; // published ports for UDP, and servers that start slowly
mod copies; // files in and out of tasks
mod copy_states; // of tasks that do not run, and interrupted ones
mod special_modes; // set-user-id and its kin, from a build to a container and back
