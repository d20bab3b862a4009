//! The gateway service: tools for agents over HTTP.
