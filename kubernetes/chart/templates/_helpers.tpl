{{- define "torchserve-lite.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "torchserve-lite.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "torchserve-lite.labels" -}}
{{ include "torchserve-lite.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "torchserve-lite.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ if and .Values.gpus (not .Values.image.tag) }}-gpu{{ end }}
{{- end -}}

{{- define "torchserve-lite.security" -}}
runAsUser: 1000
runAsNonRoot: true
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "torchserve-lite.resources" -}}
requests:
  {{- toYaml .Values.resources.requests | nindent 2 }}
  {{- if .Values.gpus }}
  nvidia.com/gpu: {{ .Values.gpus | quote }}
  {{- end }}
limits:
  {{- toYaml .Values.resources.limits | nindent 2 }}
  {{- if .Values.gpus }}
  nvidia.com/gpu: {{ .Values.gpus | quote }}
  {{- end }}
{{- end -}}

{{- /* Ready when every model is, alive as long as it answers. */ -}}
{{- define "torchserve-lite.probes" -}}
startupProbe:
  httpGet: {path: /v2/health/ready, port: 8080}
  periodSeconds: 5
  failureThreshold: {{ div .Values.startupSeconds 5 }}
readinessProbe:
  httpGet: {path: /v2/health/ready, port: 8080}
  periodSeconds: 5
  failureThreshold: 2
livenessProbe:
  httpGet: {path: /v2/health/live, port: 8080}
  periodSeconds: 10
  failureThreshold: 6
{{- end -}}
