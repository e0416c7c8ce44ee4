# syntax=docker/dockerfile:1

# Build: the toolchain and the sources.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# The registry and the build's intermediate files stay in caches of the builder, so that a change of ours rebuilds only
# what is ours.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --package noised-server --package noisectl \
        --features noised-server/s3,noised-server/gcs,noised-server/azure \
    && install -D --target-directory=/out target/release/noised target/release/noisectl \
    && mkdir /state

# Run: the C library and the two programs. No shell, no package manager, not root.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /out/noised /out/noisectl /usr/local/bin/
# Where sessions are kept: a volume that is new takes its owner from here.
COPY --from=build --chown=65532:65532 /state /var/lib/noised
VOLUME /var/lib/noised
# At every address of the container. That wants NOISED_TLS_CERT and NOISED_TLS_KEY, or NOISED_INSECURE=true.
ENV NOISED_LISTEN=0.0.0.0:7467 \
    NOISED_STATE=/var/lib/noised \
    NOISED_LOG_FORMAT=json
EXPOSE 7467
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 CMD ["/usr/local/bin/noised", "health"]
# The server drains on SIGTERM.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/noised"]
CMD ["serve"]
