{{/* The name of everything: the release's, if it has the chart's in it. */}}
{{- define "dynamo-operator.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* By the first one nodes know the operator's pods, and let them to their admin port. */}}
{{- define "dynamo-operator.selector" -}}
app.kubernetes.io/name: dynamo-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "dynamo-operator.labels" -}}
{{ include "dynamo-operator.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "dynamo-operator.account" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "dynamo-operator.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name says whose account it is when serviceAccount.create is false" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "dynamo-operator.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* Who gets a role: the operator's account, wherever it is. */}}
{{- define "dynamo-operator.subjects" -}}
subjects:
  - kind: ServiceAccount
    name: {{ include "dynamo-operator.account" . }}
    namespace: {{ .Release.Namespace }}
{{- end -}}
