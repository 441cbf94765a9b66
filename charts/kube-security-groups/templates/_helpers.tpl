{{- define "image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* Whether agents read as their nodes: constrained impersonation is on by default in Kubernetes 1.36 and newer. */}}
{{- define "as-node" -}}
{{- if eq .Values.agent.reads "auto" }}{{ semverCompare ">=1.36-0" .Capabilities.KubeVersion.Version }}{{ else }}{{ eq .Values.agent.reads "own" }}{{ end }}
{{- end }}

{{/* Of everything that has labels; no label of these changes with a version, so that they serve as selectors, too. */}}
{{- define "labels" -}}
app.kubernetes.io/name: kube-security-groups
app.kubernetes.io/component: {{ . }}
{{- end }}

{{/* What can be said of every container of ours: nothing but what is written here. */}}
{{- define "confined" -}}
privileged: false
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* What operator and uninstall share as pods. */}}
{{- define "unprivileged" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  seccompProfile:
    type: RuntimeDefault
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.operator.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.operator.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.operator.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
