{{- define "warmpath.image" -}}
{{- $image := .Values.image }}
{{- $repository := required "image.repository: where the image is, such as REGISTRY/warmpath (make images, make push)" $image.repository }}
{{- if $image.digest }}{{ $repository }}@{{ $image.digest }}{{ else }}{{ $repository }}:{{ $image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{/* How the sidecar finds the pods: its options by kind, as docs/configuration.md has them. JSON, lists by kind. */}}
{{- define "warmpath.sources" -}}
{{- $found := dict "service" list "pods" list "inferencePool" list }}
{{- range .Values.pools }}
{{- $namespace := .namespace | default $.Release.Namespace }}
{{- $pool := "" }}
{{- if include "warmpath.namesPools" $ }}{{ $pool = printf "=%s" .name }}{{ end }}
{{- $kind := keys .discovery | first }}
{{- $how := index .discovery $kind }}
{{- $option := "" }}
{{- if eq $kind "service" }}
{{- $option = printf "%s:%v" .service $how.port }}
{{- else if eq $kind "pods" }}
{{- $option = printf "%s:%v" $how.selector $how.port }}
{{- else }}
{{- $option = $how.name }}
{{- with $how.scrapePort }}{{ $option = printf "%s@%v" $option . }}{{ end }}
{{- end }}
{{- $_ := set $found $kind (append (index $found $kind) (printf "%s/%s%s" $namespace $option $pool)) }}
{{- end }}
{{- toJson $found }}
{{- end }}

{{- define "warmpath.env" -}}
{{- $sources := include "warmpath.sources" . | fromJson }}
{{- $env := list }}
{{- with $sources.service }}{{ $env = append $env (dict "name" "WARMPATH_KUBERNETES_SERVICE" "value" (join ";" .)) }}{{ end }}
{{- with $sources.pods }}{{ $env = append $env (dict "name" "WARMPATH_KUBERNETES_PODS" "value" (join ";" .)) }}{{ end }}
{{- with $sources.inferencePool }}{{ $env = append $env (dict "name" "WARMPATH_KUBERNETES_INFERENCE_POOL" "value" (join ";" .)) }}{{ end }}
{{- $env = append $env (dict "name" "WARMPATH_FILTER" "value" "/warmpath_filter.wasm") }}
{{- $env = append $env (dict "name" "WARMPATH_HTTP_LISTEN" "value" "0.0.0.0:9464") }}
{{- if eq .Values.sidecar.mode "deployment" }}
{{- $env = append $env (dict "name" "WARMPATH_FEED_LISTEN" "value" "0.0.0.0:9465") }}
{{- end }}
{{- if .Values.peers.enabled }}
{{- $env = append $env (dict "name" "WARMPATH_PEERS_SERVICE" "value" (printf "%s/%s-peers:9466" .Release.Namespace (include "warmpath.name" .))) }}
{{- with .Values.peers.tokenSecret }}{{ if .name }}
{{- $env = append $env (dict "name" "WARMPATH_PEERS_TOKEN" "valueFrom" (dict "secretKeyRef" (dict "name" .name "key" .key))) }}
{{- end }}{{ end }}
{{- end }}
{{- if .Values.podCertificates.enabled }}
{{- $env = append $env (dict "name" "WARMPATH_POD_CERTIFICATES" "value" "/var/run/warmpath/certificates") }}
{{- end }}
{{- if ne .Values.sidecar.logFormat "text" }}
{{- $env = append $env (dict "name" "WARMPATH_LOG_FORMAT" "value" .Values.sidecar.logFormat) }}
{{- end }}
{{- $own := list }}
{{- range .Values.sidecar.extraEnv }}{{ $own = append $own .name }}{{ end }}
{{- range $env }}
{{- if not (has .name $own) }}
- {{ toJson . }}
{{- end }}
{{- end }}
{{- with .Values.sidecar.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The container, the same in the gateway pod and in a Deployment. */}}
{{- define "warmpath.container" -}}
name: warmpath-sidecar
image: {{ include "warmpath.image" . | quote }}
{{- with .Values.image.pullPolicy }}
imagePullPolicy: {{ . }}
{{- end }}
args: {{ concat (list "sidecar") .Values.sidecar.extraArgs | toJson }}
env: {{- include "warmpath.env" . | nindent 2 }}
ports:
  - {name: warmpath, containerPort: 9464, protocol: TCP}
  {{- if eq .Values.sidecar.mode "deployment" }}
  - {name: warmpath-feed, containerPort: 9465, protocol: TCP}
  {{- end }}
  {{- if .Values.peers.enabled }}
  - {name: warmpath-peers, containerPort: 9466, protocol: TCP}
  {{- end }}
startupProbe:
  httpGet: {path: /healthz, port: 9464}
  periodSeconds: 1
  failureThreshold: 30
livenessProbe:
  httpGet: {path: /healthz, port: 9464}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
resources: {{- toYaml .Values.sidecar.resources | nindent 2 }}
securityContext:
  runAsNonRoot: true
  readOnlyRootFilesystem: true
  allowPrivilegeEscalation: false
  capabilities: {drop: [ALL]}
  seccompProfile: {type: RuntimeDefault}
{{- end }}
