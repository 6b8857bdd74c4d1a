mod fixture; // a registry to test against, and images to move
mod wire; // a network that misbehaves

mod api; // endpoints, as any client sees them
mod rights; // who may do what, on every route
mod transfer; // our client against our server, and against worse
mod crash; // what is left after kill -9
mod disk; // what is said when nothing more fits
