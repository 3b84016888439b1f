{{/* Patches of the EnvoyFilter that stand in one wiring only. */}}

{{/* Buffered: holds the headers of LLM requests back until the body is whole and the filter has decided. */}}
{{- define "warmpath.buffer" -}}
- applyTo: HTTP_FILTER
  match: {{- include "warmpath.beforeRouter" . | nindent 4 }}
  patch:
    operation: INSERT_BEFORE
    value:
      name: warmpath-buffer
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.common.matching.v3.ExtensionWithMatcher
        extension_config:
          name: buffer
          typed_config:
            "@type": type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer
            max_request_bytes: {{ int64 .Values.limits.maxRequestBytes }}
        xds_matcher:
          matcher_list:
            matchers:
              - predicate:
                  not_matcher:
                    single_predicate:
                      input:
                        name: path
                        typed_config:
                          "@type": type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput
                          header_name: ":path"
                      value_match:
                        safe_regex:
                          google_re2: {}
                          regex: {{ printf `^%s/v1/(chat/completions|completions|responses|messages)/?(\?.*)?$` (regexQuoteMeta .Values.pathPrefix) | toJson }}
                on_match:
                  action:
                    name: skip
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.common.matcher.action.v3.SkipFilter
{{- end }}

{{/* Streaming: the filter's code and configuration. Istio's agent fetches the module and hands it to Envoy. */}}
{{- define "warmpath.code" -}}
- applyTo: EXTENSION_CONFIG
  match:
    context: GATEWAY
  patch:
    operation: ADD
    value:
      name: warmpath-filter
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm
        config:
          name: {{ .Values.filter.pluginName }}
          root_id: {{ .Values.filter.pluginName }}
          failure_policy: FAIL_OPEN
          # What a WasmPlugin cannot say. Without it `wiring: streaming` hangs requests.
          allow_on_headers_stop_iteration: true
          vm_config:
            runtime: envoy.wasm.runtime.v8
            code:
              remote:
                http_uri:
                  uri: {{ include "warmpath.filterUrl" . }}
                  # Required by the schema; the agent does not use it.
                  cluster: none
                  timeout: 30s
                {{- with .Values.filter.sha256 }}
                sha256: {{ . | quote }}
                {{- end }}
          configuration:
            "@type": type.googleapis.com/google.protobuf.StringValue
            value: |
              {{- include "warmpath.pluginConfig" . | fromJson | toPrettyJson | nindent 14 }}
{{- end }}

{{/* Streaming: the plugin, by the name of its code. */}}
{{- define "warmpath.plugin" -}}
- applyTo: HTTP_FILTER
  match: {{- include "warmpath.beforeRouter" . | nindent 4 }}
  patch:
    operation: INSERT_BEFORE
    value:
      name: warmpath-filter
      config_discovery:
        config_source:
          ads: {}
        type_urls:
          - type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm
          # What the agent puts in place of a module that it cannot fetch (FAIL_OPEN): allow all.
          - type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC
{{- end }}
