# The sidecar, with the filter of the same build to serve. The binary is static (`make build-static`), so nothing else is
# in here: no shell, no libraries, no base image to keep patched.
FROM scratch
ARG VERSION REVISION
LABEL org.opencontainers.image.title="warmpath" \
      org.opencontainers.image.description="Finds vLLM pods, reads their metrics, feeds the warmpath filter in Envoy" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY warmpath /warmpath
COPY warmpath_filter.wasm /warmpath_filter.wasm
# By number, or Kubernetes cannot tell that it is not root.
USER 65532:65532
ENV WARMPATH_FILTER=/warmpath_filter.wasm
EXPOSE 9464 9465 9466
ENTRYPOINT ["/warmpath"]
CMD ["sidecar"]
