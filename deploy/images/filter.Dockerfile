# The filter alone, for oci:// URLs. Istio's agent takes `plugin.wasm` out of the last layer, which must be tar+gzip
# (the "compat" variant of the Wasm image specification).
FROM scratch
ARG VERSION REVISION
LABEL org.opencontainers.image.title="warmpath-filter" \
      org.opencontainers.image.description="Sends LLM requests to the vLLM pod whose KV cache is warm, inside Envoy" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY warmpath_filter.wasm /plugin.wasm
