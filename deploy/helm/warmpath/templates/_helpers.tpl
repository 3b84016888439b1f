{{- define "warmpath.name" -}}
{{- if contains "warmpath" .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-warmpath{{ end }}
{{- end }}

{{- define "warmpath.labels" -}}
app.kubernetes.io/name: warmpath-sidecar
app.kubernetes.io/part-of: warmpath
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* The pods that have a sidecar. */}}
{{- define "warmpath.podSelector" -}}
{{- if eq .Values.sidecar.mode "deployment" -}}
app.kubernetes.io/name: warmpath-sidecar
app.kubernetes.io/instance: {{ .Release.Name }}
{{- else -}}
{{ include "warmpath.gatewaySelector" . }}
{{- end }}
{{- end }}

{{- define "warmpath.gatewaySelector" -}}
gateway.networking.k8s.io/gateway-name: {{ .Values.gateway.name }}
{{- end }}

{{/* As Istio names what it makes for a Gateway. */}}
{{- define "warmpath.gatewayDeployment" -}}
{{ .Values.gateway.name }}-{{ .Values.gateway.className }}
{{- end }}

{{- define "warmpath.serviceAccount" -}}
{{- if eq .Values.sidecar.mode "deployment" -}}
{{ include "warmpath.name" . }}
{{- else -}}
{{ .Values.gateway.serviceAccount | default (include "warmpath.gatewayDeployment" .) }}
{{- end }}
{{- end }}

{{- define "warmpath.targetRefs" -}}
- group: gateway.networking.k8s.io
  kind: Gateway
  name: {{ .Values.gateway.name }}
{{- end }}

{{- define "warmpath.host" -}}
{{ include "warmpath.name" . }}.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}
{{- end }}

{{- define "warmpath.filterUrl" -}}
{{- if .Values.filter.url -}}
{{ .Values.filter.url }}
{{- else if eq .Values.sidecar.mode "deployment" -}}
http://{{ include "warmpath.host" . }}:9464/filter.wasm
{{- else -}}
http://127.0.0.1:9464/filter.wasm
{{- end }}
{{- end }}

{{/* A pool is named to the sidecar and to the plugin only where there is something to tell apart. */}}
{{- define "warmpath.namesPools" -}}
{{- $first := first .Values.pools }}
{{- if or (gt (len .Values.pools) 1) (ne $first.name "default") $first.models }}true{{ end }}
{{- end }}

{{/* The plugin's configuration as JSON: what stands in pluginConfig, and what the chart knows. */}}
{{- define "warmpath.pluginConfig" -}}
{{- $known := dict }}
{{- if eq .Values.wiring "streaming" }}{{ $_ := set $known "wiring" "streaming" }}{{ end }}
{{- with .Values.pathPrefix }}{{ $_ := set $known "path_prefix" . }}{{ end }}
{{- if or .Values.accessLog.by .Values.tracing.by }}{{ $_ := set $known "log_fields" true }}{{ end }}
{{- if include "warmpath.namesPools" . }}
{{- $pools := list }}
{{- range .Values.pools }}
{{- $pool := dict "name" .name }}
{{- with .models }}{{ $_ := set $pool "models" . }}{{ end }}
{{- $pools = append $pools $pool }}
{{- end }}
{{- $_ := set $known "pools" $pools }}
{{- end }}
{{- merge $known (deepCopy .Values.pluginConfig) | toJson }}
{{- end }}

{{/* What values.schema.json cannot say. */}}
{{- define "warmpath.check" -}}
{{- range $key := list "wiring" "pools" "path_prefix" "sidecar_cluster" }}
{{- if hasKey $.Values.pluginConfig $key }}
{{- fail (printf "pluginConfig.%s: the chart sets it; see the values wiring, pools and pathPrefix" $key) }}
{{- end }}
{{- end }}
{{- if and .Values.pluginConfig.model_header (ne .Values.wiring "streaming") }}
{{- fail "pluginConfig.model_header: needs wiring streaming, where the route is chosen anew" }}
{{- end }}
{{- $names := list }}
{{- range .Values.pools }}
{{- if has .name $names }}{{ fail (printf "pools: two are named %q" .name) }}{{ end }}
{{- $names = append $names .name }}
{{- end }}
{{- if and .Values.podCertificates.enabled (eq .Values.sidecar.mode "deployment") }}
{{- fail "podCertificates.enabled: the certificate is in the gateway pod, so sidecar.mode must be gateway-pod" }}
{{- end }}
{{- if eq .Values.wiring "streaming" }}
{{- $decide := dig "limits" "decide_at_bytes" 900000 .Values.pluginConfig | int64 }}
{{- if lt (int64 .Values.limits.maxRequestBytes) (add $decide 1048576) }}
{{- fail (printf "limits.maxRequestBytes: in the streaming wiring at least pluginConfig.limits.decide_at_bytes plus 1 MiB, %d; below, Envoy answers 413" (add $decide 1048576)) }}
{{- end }}
{{- end }}
{{- end }}
