//! Requests, replies and status of the control socket as types, with a small blocking client.
