{{/* Patches of the EnvoyFilter that stand in both wirings. */}}

{{- define "warmpath.beforeRouter" -}}
context: GATEWAY
listener:
  filterChain:
    filter:
      name: envoy.filters.network.http_connection_manager
      subFilter:
        name: envoy.filters.http.router
{{- end }}

{{/* Takes away a destination that the client sent; buffered, it then writes the filter's. */}}
{{- define "warmpath.destination" -}}
- applyTo: HTTP_FILTER
  match: {{- include "warmpath.beforeRouter" . | nindent 4 }}
  patch:
    operation: INSERT_BEFORE
    value:
      name: warmpath-destination
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation
        mutations:
          request_mutations:
            - remove: x-gateway-destination-endpoint
            - remove: x-data-parallel-rank
            {{- if eq .Values.wiring "buffered" }}
            - append:
                header:
                  key: x-gateway-destination-endpoint
                  value: "%FILTER_STATE(wasm.warmpath.endpoint:PLAIN)%"
                append_action: OVERWRITE_IF_EXISTS_OR_ADD
                keep_empty_value: false
            - append:
                header:
                  key: x-data-parallel-rank
                  value: "%FILTER_STATE(wasm.warmpath.rank:PLAIN)%"
                append_action: OVERWRITE_IF_EXISTS_OR_ADD
                keep_empty_value: false
            {{- end }}
{{- end }}

{{- define "warmpath.clusters" -}}
{{- range .Values.pools }}
# The pool's cluster obeys the header; without one it takes the endpoint with the fewest requests.
- applyTo: CLUSTER
  match:
    context: GATEWAY
    cluster:
      service: {{ .service }}.{{ .namespace | default $.Release.Namespace }}.svc.{{ $.Values.clusterDomain }}
      portNumber: {{ int64 .port }}
  patch:
    operation: MERGE
    value:
      load_balancing_policy:
        policies:
          - typed_extension_config:
              name: envoy.load_balancing_policies.override_host
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.load_balancing_policies.override_host.v3.OverrideHost
                override_host_sources:
                  - header: x-gateway-destination-endpoint
                fallback_policy:
                  policies:
                    - typed_extension_config:
                        name: envoy.load_balancing_policies.least_request
                        typed_config:
                          "@type": type.googleapis.com/envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest
{{- end }}
- applyTo: CLUSTER
  match:
    context: GATEWAY
  patch:
    operation: ADD
    value:
      name: warmpath-sidecar
      {{- if eq .Values.sidecar.mode "deployment" }}
      type: STRICT_DNS
      # Whichever family the sidecar listens on; by default Envoy would try IPv6 only, where the name has both.
      dns_lookup_family: ALL
      {{- else }}
      type: STATIC
      {{- end }}
      connect_timeout: 1s
      load_assignment:
        cluster_name: warmpath-sidecar
        endpoints:
          - lb_endpoints:
              - endpoint:
                  address:
                    socket_address:
                      address: {{ if eq .Values.sidecar.mode "deployment" }}{{ include "warmpath.host" . }}{{ else }}127.0.0.1{{ end }}
                      port_value: 9465
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config:
            http2_protocol_options:
              # Finds a sidecar that hangs.
              connection_keepalive:
                interval: 2s
                timeout: 2s
# How much of a body a retry may send again; streaming: also what the plugin may hold back.
- applyTo: VIRTUAL_HOST
  match:
    context: GATEWAY
  patch:
    operation: MERGE
    value:
      request_body_buffer_limit: {{ int64 .Values.limits.maxRequestBytes }}
{{- end }}
